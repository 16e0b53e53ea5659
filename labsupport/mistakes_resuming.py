"""What readers get wrong in exercises_resuming.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake

_IN, _OUT = '"--input_folder", f"{checkpoint}/{tag}"', '"--output_folder", f"{target}/{tag}"'

CLIENT_STATE = {
    "all safe": Mistake(
        "Some of these keys are DeepSpeed's own. With `{key}`, for example, {what}: your dict is laid over its "
        "dict before the file is written.",
        ("not_safe = set()",),
    ),
    "only the weights": Mistake(
        "`module` is one of them, because the weights stand there, and {count} more of these keys have the same "
        "fate. The file holds far more than weights.",
        ('not_safe = {"module"}',),
        "Open a model file with `torch.load(..., weights_only=False)` and look at its keys.",
    ),
    "safe after all": Mistake(
        "`{key}` is safe: the engine stays as it was, and the value comes back. That a word belongs to training "
        "does not make it DeepSpeed's; what counts is whether the engine writes or reads that key.",
        (
            """not_safe = {"epoch", "module", "global_steps", "optimizer", "lr_scheduler", "data_sampler",
            "global_samples", "best_loss", "tokens_seen"}""",
            'not_safe = {"epoch", "global_steps", "module", "optimizer", "lr_scheduler"}',
        ),
    ),
    "the load fails": Mistake(
        "You count `{key}` as safe, and a checkpoint with it cannot be loaded any more: {what}",
        (
            'not_safe = {"module", "global_steps", "global_samples", "optimizer", "data_sampler"}',
            'not_safe = {"optimizer", "lr_scheduler"}',
        ),
    ),
    "the engine changed": Mistake(
        "You count `{key}` as safe, and it changes the engine: after loading, {what}. That a value comes back does "
        "not mean that nobody else has read it.",
        (
            'not_safe = {"module", "optimizer", "lr_scheduler", "data_sampler"}',
            'not_safe = {"module", "global_steps", "optimizer", "lr_scheduler", "data_sampler"}',
        ),
    ),
    "it did not come back": Mistake(
        "You count `{key}` as safe, and your value is lost without a word: {what}. DeepSpeed returns what it does "
        "not use itself, and it keeps this name for itself even where it has nothing to store.",
        (
            'not_safe = {"module", "lr_scheduler", "global_steps", "global_samples"}',
            'not_safe = {"module", "lr_scheduler", "global_steps", "global_samples", "optimizer"}',
        ),
        "Save a checkpoint with this key, load it, and look for the key in what `load_checkpoint` returns.",
    ),
}


def _universal(flags, fragment='{"checkpoint": {"load_universal": True}}'):
    return f"""import sys

def to_other_ranks(checkpoint, tag, target):
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", {flags}]
    return command, {fragment}"""


_INJECT = '"--inject_missing_state"'

OTHER_RANKS = {
    "not the tag": Mistake(
        "The converter finds no optimizer files. Its input is the folder of one tag, where the files lie, and not "
        "the folder above it.",
        (_universal(f'"--input_folder", checkpoint, {_OUT}, {_INJECT}'),),
    ),
    "nothing injected": Mistake(
        "The converter refuses this checkpoint: the description of the parameters that it looks for is missing. At "
        "stages 1 and 2 DeepSpeed does not write it by itself; the converter can put it in.",
        (_universal(f"{_IN}, {_OUT}"),),
    ),
    "output without a tag": Mistake(
        "The universal checkpoint lies in `target` itself, and `latest_universal` beside it. "
        "`load_checkpoint(target)` looks for it in `target`: the output is the folder of a tag, as the input is.",
        (_universal(f'{_IN}, "--output_folder", target, {_INJECT}'),),
    ),
    "not told": Mistake(
        "With this fragment DeepSpeed looks for an ordinary checkpoint. In a folder that has only "
        "`latest_universal` it finds none, returns (None, None), and trains from random weights.",
        (
            _universal(f"{_IN}, {_OUT}, {_INJECT}", "{}"),
            _universal(f"{_IN}, {_OUT}, {_INJECT}", '{"checkpoint": {"load_universal": False}}'),
        ),
    ),
    "another place": Mistake(
        "DeepSpeed does not read `load_universal` where it stands in your fragment: it ignores an unknown key at "
        "the top without a word. The key belongs into a block of its own.",
        (
            _universal(f"{_IN}, {_OUT}, {_INJECT}", '{"load_universal": True}'),
            _universal(f"{_IN}, {_OUT}, {_INJECT}", '{"zero_optimization": {"stage": 2}, "load_universal": True}'),
        ),
    ),
    "weights only": Mistake(
        "`zero_to_fp32` writes the weights and nothing else. A resume needs Adam's states and the counters as "
        "well, so another converter is needed.",
        (
            """import sys


def to_other_ranks(checkpoint, tag, target):
    command = [sys.executable, f"{checkpoint}/zero_to_fp32.py", checkpoint, target]
    return command, {"checkpoint": {"load_universal": True}}""",
        ),
    ),
    "hangs": Mistake(
        "Your function does not come back on every rank. It has to return the command, not to run it, and it needs "
        "no other rank.",
    ),
}
