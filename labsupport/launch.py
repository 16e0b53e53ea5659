"""Start the program under the deepspeed launcher, see it through, and bring its result back.

    python -c "from labsupport import run_program; print(run_program(['--stage', '2'], ranks=2)['final_loss'])"

Whatever happens to a run, no process of it is left behind.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from labsupport.errors import LabError, TrainingError
from labsupport.machine.probes import free_port

PROGRAM = Path(__file__).with_name("deepspeed_trainer.py")
SET_BY_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT",
                     "CROSS_RANK", "CROSS_SIZE", "GROUP_RANK", "ROLE_RANK", "CUDA_VISIBLE_DEVICES")  # fmt: skip


def launcher_command(ranks=None, hostfile=None, port=None):
    """Return the command that starts a script under the deepspeed launcher, up to the script's own name."""
    command = [sys.executable, "-m", "deepspeed.launcher.runner"]
    if ranks is not None:
        command += ["--num_gpus", str(ranks)]
    if hostfile is not None:
        command += ["--hostfile", str(hostfile)]
    return [*command, "--master_port", str(port or free_port())]


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


def run_program(arguments, ranks=2, on_line=None, timeout_seconds=1800):
    """Run the training program on real ranks and return its JSON result as a dict.

    arguments: the program's own, for example ["--stage", "2"]. on_line: called with each line that it
    prints. Raises TrainingError with the program's own sentence when it fails or takes too long; whatever
    happens, Ctrl-C included, no rank is left running.
    """
    return _run_for_result(launcher_command(ranks), arguments, launcher_environment(), on_line, timeout_seconds)


def run_under_torchrun(arguments, ranks=2, on_line=None, accelerator=None, timeout_seconds=1800):
    """Run the program as `run_program` does, started by torchrun in place of the deepspeed launcher.

    accelerator: "cpu" for ranks on the processor also where there are GPUs; by default what DeepSpeed finds.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks)]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    environment = launcher_environment() | ({"DS_ACCELERATOR": accelerator} if accelerator else {})
    return _run_for_result(torchrun, arguments, environment, on_line, timeout_seconds)


def run_two_nodes(arguments, on_line=None, timeout_seconds=1800):
    """Run the program on two "nodes", both on this machine, one CPU rank each; return its JSON result.

    Each node has a launcher of its own, started with --no_ssh and its --node_rank, as one would type it on
    two machines. The ranks are CPU ranks, because each node would take the same first GPU. on_line: called
    with (node, line). Raises TrainingError, with the sentence of the node that failed, and stops the other.
    """
    import queue
    import threading
    import time

    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        hostfile, result = Path(folder, "hostfile"), Path(folder, "result.json")
        hostfile.write_text("node0 slots=1\nnode1 slots=1\n")
        launcher = [*launcher_command(hostfile=hostfile), "--no_ssh", "--master_addr", "127.0.0.1", "--node_rank"]
        program = [str(PROGRAM), *map(str, arguments), "--json", str(result)]
        environment = launcher_environment(inherit_gpus=False) | {"DS_ACCELERATOR": "cpu"}
        nodes, readers, lines, printed = [], [], ([], []), queue.SimpleQueue()

        def read(node):
            for line in nodes[node].stdout:
                printed.put((node, line.rstrip("\n")))

        def show():
            while not printed.empty():
                node, line = printed.get()
                lines[node].append(line)
                if on_line is not None:
                    on_line(node, line)

        ends_at = time.monotonic() + timeout_seconds
        try:
            for node in (0, 1):
                nodes.append(_start([*launcher, str(node), *program], environment))
                readers.append(threading.Thread(target=read, args=(node,), daemon=True))
                readers[-1].start()
            while None in (statuses := [node.poll() for node in nodes]) and not any(statuses):
                if time.monotonic() > ends_at:
                    break
                show()
                time.sleep(0.1)
        finally:
            for node in nodes:
                stop_group(node)
            for reader in readers:  # with the processes gone, each soon reads its last line
                reader.join()
            for node in nodes:
                node.stdout.close()
        show()
        failed = next((node for node, status in enumerate(statuses) if status), 0)
        if any(statuses) or not result.exists():
            raise TrainingError(_failure(lines[failed], statuses[failed], timeout_seconds))
        return json.loads(result.read_text())


def _run_for_result(launcher, arguments, environment, on_line, timeout_seconds):
    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        result = Path(folder, "result.json")
        command = [*launcher, str(PROGRAM), *map(str, arguments), "--json", str(result)]
        status, lines = run_to_the_end(command, environment, on_line, timeout_seconds)
        if status or not result.exists():
            raise TrainingError(_failure(lines, status, timeout_seconds))
        return json.loads(result.read_text())


def run_to_the_end(command, environment, on_line=None, timeout_seconds=None):
    """Run a command in a process group of its own and return (exit status, lines that it printed).

    On a time-out (status None), an interrupt or any error the whole group is stopped before this returns.
    """
    process = _start(command, environment)
    lines, stopped = [], []

    def stop_late():
        stopped.append(True)
        stop_group(process)

    import threading

    alarm = threading.Timer(timeout_seconds, stop_late) if timeout_seconds else None
    if alarm:
        alarm.start()
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if on_line is not None:
                on_line(lines[-1])
        status = process.wait()
    finally:
        if alarm:
            alarm.cancel()
        stop_group(process)
        process.stdout.close()
    return (None if stopped else status), lines


def _start(command, environment):
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def stop_group(process):
    """Stop a process and everything that it started: first by request, then by force."""
    # The launcher starts each rank in a group of its own, so name the descendants, not the group.
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=5)
        for member in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_with_the_launcher():
    """Let this rank end when the deepspeed launcher that started it is gone, however that went.

    `deepspeed` starts a second process, which starts the ranks. When only the first one is interrupted or
    killed, DeepSpeed 0.19.8 leaves the second and the ranks running.
    """
    import threading
    import time

    with contextlib.suppress(psutil.Error):
        parent = psutil.Process().parent()
        if parent is None or "deepspeed.launcher.launch" not in parent.cmdline():
            return
        starter = parent.ppid()

        def watch():
            with contextlib.suppress(psutil.Error):
                while parent.is_running() and parent.ppid() == starter:
                    time.sleep(1)
                parent.terminate()
            os._exit(130)

        threading.Thread(target=watch, daemon=True).start()


def check_hostfile(path):
    """Return {host: slots} of a hostfile; raises LabError, with the line, for what DeepSpeed cannot read.

    DeepSpeed itself goes on alone when the file is missing.
    """
    import re

    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise LabError(
            f"Cannot read the hostfile {path}: {error.strerror.lower()}; DeepSpeed would train on this machine alone."
        ) from None
    hosts = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)", text)
        if not match:
            raise LabError(
                f"Line {number} of {path} is {line.strip()!r}: write a host and its GPUs, like `node1 slots=8`."
            )
        if match[1] in hosts:
            raise LabError(f"Line {number} of {path} names the host {match[1]} again: give each host one line.")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise LabError(f"The hostfile {path} names no host: write one line a host, like `node1 slots=8`.")
    return hosts


def _failure(lines, status, timeout_seconds):
    if status is None:
        return f"The program took longer than {timeout_seconds} s and was stopped: use fewer steps or a smaller model."
    own = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    if own:
        return own[0]
    tail = [line for line in lines if line.strip()][-15:]
    return f"The program ended with status {status}; its last lines were:\n" + "\n".join(tail)
