"""Exercise 05-other-ranks: answers that are known to be wrong, by their mistake, and right ones."""

_IN, _OUT = '"--input_folder", f"{checkpoint}/{tag}"', '"--output_folder", f"{target}/{tag}"'


def _universal(flags, fragment='{"checkpoint": {"load_universal": True}}'):
    return f"""import sys

def to_other_ranks(checkpoint, tag, target):
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", {flags}]
    return command, {fragment}"""


_INJECT = '"--inject_missing_state"'

WRONG = {
    "not the tag": (_universal(f'"--input_folder", checkpoint, {_OUT}, {_INJECT}'),),
    "nothing injected": (_universal(f"{_IN}, {_OUT}"),),
    "output without a tag": (_universal(f'{_IN}, "--output_folder", target, {_INJECT}'),),
    "not told": (
        _universal(f"{_IN}, {_OUT}, {_INJECT}", "{}"),
        _universal(f"{_IN}, {_OUT}, {_INJECT}", '{"checkpoint": {"load_universal": False}}'),
    ),
    "another place": (
        _universal(f"{_IN}, {_OUT}, {_INJECT}", '{"load_universal": True}'),
        _universal(f"{_IN}, {_OUT}, {_INJECT}", '{"zero_optimization": {"stage": 2}, "load_universal": True}'),
    ),
    "runs it": (
        _universal(f"{_IN}, {_OUT}, {_INJECT}").replace(
            "    return command",
            "    import subprocess\n    subprocess.run(command)\n    return [sys.executable, '-c', '']",
        ),
    ),
    "more than the resume": (
        _universal(f"{_IN}, {_OUT}, {_INJECT}", '{"checkpoint": {"load_universal": True}, "train_batch_size": 2}'),
        _universal(
            f"{_IN}, {_OUT}, {_INJECT}", '{"checkpoint": {"load_universal": True}, "zero_optimization": {"stage": 1}}'
        ),
    ),
    "another checkpoint": (
        _universal(f"{_IN.replace('{tag}', '{latest}')}, {_OUT}, {_INJECT}").replace(
            "    command =", '    latest = open(f"{checkpoint}/latest").read().strip()\n    command ='
        ),
    ),
    "weights only": (
        """import sys


def to_other_ranks(checkpoint, tag, target):
    command = [sys.executable, f"{checkpoint}/zero_to_fp32.py", checkpoint, target]
    return command, {"checkpoint": {"load_universal": True}}""",
    ),
}

RIGHT = (
    """import sys

def to_other_ranks(checkpoint, tag, target):
    flags = f"--inject_missing_state --input_folder {checkpoint}/{tag} --output_folder {target}/{tag}"
    return [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *flags.split()], {
        "checkpoint": {"load_universal": True}
    }""",
    """import sys
from pathlib import Path

from deepspeed.checkpoint import ds_to_universal

def to_other_ranks(checkpoint, tag, target):
    command = (sys.executable, Path(ds_to_universal.__file__), "--input_folder", Path(checkpoint, tag),
               "--output_folder", Path(target, "start"), "--inject_missing_state", "--num_extract_workers", "1")
    return command, dict(checkpoint=dict(load_universal=True))""",
    """import sys

def to_other_ranks(checkpoint, tag, target):
    program = "import sys; from deepspeed.checkpoint import ds_to_universal as d; d.main(d.parse_arguments())"
    folders = [f"--input_folder={checkpoint}/{tag}", f"--output_folder={target}/{tag}"]
    return [[sys.executable, "-c", program, "--inject_missing_state", *folders],
            {"checkpoint": {"load_universal": True, "tag_validation": "Warn"}}]""",
)
