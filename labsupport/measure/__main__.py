"""python -m labsupport.measure SCRIPT: a reader's own training script, planned beside held.

    python -m labsupport.measure train.py                        # two ranks on the processor
    python -m labsupport.measure --ranks 4 train.py --epochs 1   # what follows the script is its own
    python -m labsupport.measure --hf-config config.json --stage 3 --world-size 8 --sequence-length 4096

The script runs as it is until its engine has made three optimizer steps; nothing of it is changed. With --hf-config a
language model of any architecture is planned, and what the planner has no count of is measured on a small copy.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from labsupport.arguments import require_positive_integer
from labsupport.command_line import OneSentenceParser, exit_status, write_json
from labsupport.config import read_config
from labsupport.errors import LabError, TrainingError
from labsupport.launch.launcher import failure, importing_this_package, launcher_environment, torchrun_command
from labsupport.launch.processes import run_to_the_end
from labsupport.measure.collectives import SMALLEST_BYTES
from labsupport.memory.report import in_words, whole
from labsupport.memory.roles import ROLES, memory_held
from labsupport.wording import mebibytes, ranks_in_words

MOST_RANKS = 8


def run(arguments=None):
    """Run the script that the command line names, print what it holds beside the plan, and return 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0].partition("=")[0] == "--hf-config":
        print(_plan_of_config(arguments))
        return 0
    options = _parse(arguments)
    print(f"Running {options.script} on {ranks_in_words(options.ranks)} until it has made three steps ...", flush=True)
    on_line = print if options.show else None
    measured = measure_script(options.script, options.arguments, options.ranks, on_line, options.timeout)
    print(report(measured))
    if options.json:
        write_json(options.json, measured)
    return 0


def _parse(arguments):
    parser = OneSentenceParser(
        prog="python -m labsupport.measure",
        description="Run a DeepSpeed training script for three steps on CPU ranks: what it holds beside the plan.",
        epilog="With --hf-config FILE as the first argument, plan a language model instead; --hf-config FILE --help.",
    )
    parser.add_argument("--ranks", type=int, default=2, help="how many, on this machine's processor (default 2)")
    parser.add_argument("--timeout", type=int, default=600, metavar="SECONDS", help="then it is stopped (default 600)")
    parser.add_argument("--show", action="store_true", help="print what the script prints")
    parser.add_argument("--json", metavar="FILE", help="write what was measured and planned")
    parser.add_argument("script", help="the training script, which calls deepspeed.initialize")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own")
    options = parser.parse_args(arguments)
    require_positive_integer("--ranks", options.ranks)
    require_positive_integer("--timeout", options.timeout)
    if options.ranks > MOST_RANKS:
        raise LabError(f"--ranks is {options.ranks}: a processor takes at most {MOST_RANKS} here; give fewer.")
    if not Path(options.script).is_file():
        raise LabError(f"There is no script {options.script}: give the file that trains.")
    return options


def _plan_of_config(arguments):
    """The plan that --hf-config and what follows it ask for, as text."""
    parser = OneSentenceParser(prog="python -m labsupport.measure", description="Plan a language model of any type.")
    add = parser.add_argument
    add("--hf-config", metavar="FILE", required=True, help="a Hugging Face config.json, or the folder that it is in")
    add("--sequence-length", type=whole, required=True, help="tokens in a sample")
    add("--world-size", type=whole, default=1, help="ranks (default 1)")
    add("--config", metavar="FILE", help="a ds_config.json, in place of stage, precision and micro-batch")
    add("--stage", type=whole, help="ZeRO stage, 0 to 3 (default 0)")
    add("--precision", help="fp32, fp16 or bf16 (default bf16)")
    add("--micro-batch-size", type=whole, help="samples per rank per forward pass (default 1)")
    add("--activation-checkpointing", action="store_true", help="recompute every layer in the backward pass")
    options = parser.parse_args(arguments)
    choices = {name: getattr(options, name) for name in ("stage", "precision", "micro_batch_size")}
    choices = {name: value for name, value in choices.items() if value is not None}
    if options.config and choices:
        raise LabError("--config decides everything of the config: leave out --stage, --precision, --micro-batch-size.")
    from labsupport.measure.plan_model import plan_config

    return in_words(
        plan_config(
            options.hf_config,
            read_config(options.config) if options.config else None,
            sequence_length=options.sequence_length,
            activation_checkpointing=options.activation_checkpointing,
            world_size=options.world_size,
            **choices,
        )
    )


def measure_script(script, arguments=(), ranks=2, on_line=None, timeout_seconds=600):
    """Run a script on `ranks` CPU ranks and return what rank 0 held and what was planned, in bytes, as plain data.

    {"at rest": {place: {role: bytes}}, "peak": {role: bytes}, "peak_phase", "collectives", "planned": {"moments",
    "peak_phase", "collectives", "not_described", ...}, "model", "parameters", "world_size"}. Raises LabError, in one
    sentence, where the script fails, does not use DeepSpeed or makes too few steps.
    """
    environment = importing_this_package(launcher_environment()) | {"DS_ACCELERATOR": "cpu"}
    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        result = Path(folder, "result.json")
        command = [*torchrun_command(ranks), "-m", "labsupport.measure.script", str(result), str(script), *arguments]
        status, lines = run_to_the_end(command, environment, on_line, timeout_seconds)
        if status or not result.exists():
            raise TrainingError(failure(lines, status, timeout_seconds))
        return json.loads(result.read_text())


def report(measured):
    """Return the table of what was planned and what was held, in MiB, at rest and at the peak of a step."""
    planned = measured["planned"]
    rows = []
    rest = memory_held(planned["moments"]["at rest"]), memory_held(measured["at rest"])
    peak = memory_held(planned["moments"]["peak"]), measured["peak"]
    for role in ROLES:
        counts = [moment.get(role, 0) for moment in (*rest, *peak)]
        if any(counts):
            rows.append([role, *map(mebibytes, counts)])
    rows.append(["together", *(mebibytes(sum(moment.values())) for moment in (*rest, *peak))])
    head = ("", "rest, planned", "rest, held", "peak, planned", "peak, held")
    table = tabulate(rows, head, "simple", disable_numparse=True, colalign=["left", *["right"] * 4])
    messages = ", ".join(
        f"{name} {mebibytes(planned['collectives'].get(name, 0))} planned and {mebibytes(size)} sent"
        for name, size in measured["collectives"].items()
        if max(size, planned["collectives"].get(name, 0)) >= SMALLEST_BYTES
    )
    lines = [
        f"{measured['model']}, {measured['parameters']:,} trained parameters, stage {planned['stage']}, "
        f"{planned['precision']}, rank 0 of {ranks_in_words(measured['world_size'])} on the processor.",
        "",
        table,
        "",
        f"The peak is in the {measured['peak_phase']}, planned in the {planned['peak_phase']}. "
        f"Messages of one step: {messages or 'none'}.",
    ]
    if planned["not_described"]:
        lines.append(f"Planned without: {'; '.join(planned['not_described'])}.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(exit_status(run))
