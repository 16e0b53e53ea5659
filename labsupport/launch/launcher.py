"""Start the program under the deepspeed launcher, see it through, and bring its result back.

    python -c "from labsupport import run_program; print(run_program(['--stage', '2'], ranks=2)['final_loss'])"

Whatever happens to a run, no process of it is left behind.
"""

import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

from labsupport.errors import LabError, TrainingError
from labsupport.launch.processes import run_to_the_end
from labsupport.machine.probes import free_port

PACKAGE = Path(__file__).parent.parent
PROGRAM = PACKAGE / "deepspeed_trainer.py"
SET_BY_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT",
                     "CROSS_RANK", "CROSS_SIZE", "GROUP_RANK", "ROLE_RANK", "CUDA_VISIBLE_DEVICES")  # fmt: skip
# The program's own sentences, and the last lines of tracebacks, which torch marks with the rank.
ERROR = re.compile(r"error: (?P<own>.+)|(?:\[rank\d+\]: ?)?(?P<raised>(?:\w+\.)*\w*(?:Error|Exception): .+)")
# What a rank says when another one is gone.
LOST_PEER = re.compile(r"gloo|NCCL|Connection (closed|reset)|Rank (?P<rank>\d+) \(process \d+\) is gone")
OF_RANK = re.compile(r"\[rank ?(?P<rank>\d+)\]:? ?(?P<said>.+)")  # as torch marks a rank's lines, and launch/stacks.py


class BrokenRun(TrainingError):
    """A run that something ended from outside: it can go on from its last checkpoint."""


def launcher_command(ranks=None, hostfile=None, port=None):
    """Return the command that starts a script under the deepspeed launcher, up to the script's own name."""
    command = [sys.executable, "-m", "deepspeed.launcher.runner"]
    if ranks is not None:
        command += ["--num_gpus", str(ranks)]
    if hostfile is not None:
        command += ["--hostfile", str(hostfile)]
    return [*command, "--master_port", str(port or free_port())]


def torchrun_command(ranks):
    """Return the command that starts a script, or `-m` and a module, on `ranks` ranks under torchrun."""
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks), *meeting]


def launcher_environment(inherit_gpus=True):
    """Return this environment without what another launcher set, with one thread a rank on a CPU."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in SET_BY_A_LAUNCHER
        or (inherit_gpus and name == "CUDA_VISIBLE_DEVICES" and "RANK" not in os.environ)
    }
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def importing_this_package(environment):
    """Return the environment in which any Python process, wherever it runs, imports this labsupport."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), environment.get("PYTHONPATH")]))
    return environment | {"PYTHONPATH": path}


def run_program(arguments, ranks=2, on_line=None, timeout_seconds=1800, restarts=0):
    """Run the training program on real ranks and return its JSON result as a dict.

    arguments: the program's own, for example ["--stage", "2"]. on_line: called with each line that it prints.
    restarts: how often a run that broke is started again with `--resume auto`, from what it saved; a mistake is not.
    Raises TrainingError with the program's own sentence when it fails or takes too long; whatever happens, Ctrl-C
    included, no rank is left running.
    """
    environment = launcher_environment()
    for left in range(restarts, -1, -1):
        try:
            return _run_for_result(launcher_command(ranks), arguments, environment, on_line, timeout_seconds)
        except BrokenRun:
            if not left:
                raise
            if "--resume" not in arguments:
                arguments = [*arguments, "--resume", "auto"]


def run_under_torchrun(arguments, ranks=2, on_line=None, accelerator=None, timeout_seconds=1800):
    """Run the program as `run_program` does, started by torchrun in place of the deepspeed launcher.

    accelerator: "cpu" for ranks on the processor also where there are GPUs; by default what DeepSpeed finds.
    """
    environment = launcher_environment() | ({"DS_ACCELERATOR": accelerator} if accelerator else {})
    return _run_for_result(torchrun_command(ranks), arguments, environment, on_line, timeout_seconds)


def _run_for_result(launcher, arguments, environment, on_line, timeout_seconds):
    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        result = Path(folder, "result.json")
        command = [*launcher, str(PROGRAM), *map(str, arguments), "--json", str(result)]
        status, lines = run_to_the_end(command, environment, on_line, timeout_seconds)
        if status or not result.exists():
            kind = TrainingError if status in (None, LabError.status) else BrokenRun
            raise kind(failure(lines, status, timeout_seconds))
        return json.loads(result.read_text())


def failure(lines, status, timeout_seconds=None):
    """Return the one sentence for a run that failed, from what its ranks printed and the exit status.

    status: None for a run that was stopped after timeout_seconds.
    """
    if status is None:
        return f"The program took longer than {timeout_seconds} s and was stopped: use fewer steps or a smaller model."
    errors = [match for line in lines if (match := ERROR.match(line))]
    causes = [match for match in errors if not LOST_PEER.search(match[0])]
    if own := [match["own"] for match in causes if match["own"]]:
        return own[0]
    if causes:
        return f"A rank failed, which stopped the others: {causes[0]['raised']}"
    killed = re.search(r"exits with return code = -(\d+)", "\n".join(lines))
    if killed or errors:
        by = f" by {signal.Signals(int(killed[1])).name}" if killed else ""
        lost = next((found["rank"] for match in errors if (found := LOST_PEER.search(match[0]))["rank"]), None)
        said = [found["said"] for line in lines if (found := OF_RANK.match(line)) and found["rank"] == lost]
        last = f' (its last line was "{said[-1][:300]}")' if said else ""
        return (
            f"{f'Rank {lost}' if lost else 'A rank'} was ended from outside{by}{last}, which stopped the others: if "
            "nobody did that, the memory ran out; choose a smaller model or fewer ranks."
        )
    last = next((f'; its last line was "{line.strip()[:300]}"' for line in reversed(lines) if line.strip()), "")
    return f"The launcher ended with status {status} and gave no reason{last}: run it again."
