"""The exercises of lab 05 on what comes back: your own state, and a run on another number of ranks."""

import functools
import os
import subprocess
from pathlib import Path

from labsupport.checkpoint_checks import (
    adam_config,
    apart,
    common_folder,
    flat_weights,
    kept_engines,
    new_engine,
    train_steps,
)
from labsupport.config import merge_configs
from labsupport.judging import (
    Exercise,
    Mistake,
    Mistaken,
    Unusable,
    call,
    describe,
    first_line,
    parsed_by_deepspeed,
    require_dict,
)
from labsupport.meeting import Meeting

KEYS = (
    "epoch",
    "module",
    "global_steps",
    "optimizer",
    "best_loss",
    "data_sampler",
    "lr_scheduler",
    "my_state",
    "global_samples",
    "tokens_seen",
)
VALUE = 1000


def _client_state(answer):
    if isinstance(answer, str) or not isinstance(answer, set | frozenset | list | tuple):
        raise Unusable(f"The answer is {describe(answer)}: it has to be a set of keys.")
    unknown = [key for key in answer if not isinstance(key, str) or key not in KEYS]
    if unknown:
        raise Unusable(f"{describe(unknown[0])} is none of the keys: {', '.join(KEYS)}.")
    found, given = _found_for_each_key(), set(answer)
    harmed = {key for key, (how, _) in found.items() if how}
    if given == harmed:
        return
    if not given:
        raise Mistaken("all safe", key="global_steps", what=found["global_steps"][1])
    for key in KEYS:
        if key in given - harmed:
            raise Mistaken("safe after all", key=key)
    if given == {"module"}:
        raise Mistaken("only the weights", count=len(harmed) - 1)
    for how in ("the load fails", "the engine changed", "it did not come back"):
        for key in KEYS:
            if key in harmed - given and found[key][0] == how:
                raise Mistaken(how, key=key, what=found[key][1])


@functools.cache
def _found_for_each_key():
    """Save and load once with each key; return {key: (what went wrong or None, in words)}."""
    with common_folder() as folder, kept_engines() as make:
        engine = make(adam_config(2))
        train_steps(engine, 0, 2)
        engine.save_checkpoint(folder, tag="clean")
        for key in KEYS:
            engine.save_checkpoint(folder, tag=key, client_state={key: VALUE})
        engine.load_checkpoint(folder, tag="clean")
        clean = _counters(engine)
        return {key: _found(engine, folder, key, clean) for key in KEYS}


def _found(engine, folder, key, clean):
    engine.load_checkpoint(folder, tag="clean")
    try:
        _, came_back = engine.load_checkpoint(folder, tag=key)
    except Exception as error:
        return "the load fails", first_line(error)
    for name, value in _counters(engine).items():
        if value != clean[name]:
            return "the engine changed", f"`engine.{name}` was {clean[name]} and is {value}"
    if came_back.get(key) != VALUE:
        return "it did not come back", f"client_state has {came_back.get(key)!r} there after loading"
    return None, ""


def _counters(engine):
    return {name: getattr(engine, name) for name in ("global_steps", "global_samples", "skipped_steps")}


CLIENT_STATE = Exercise(
    id="05-client-state",
    title="Names that are already taken",
    difficulty=3,
    minutes=8,
    target="exactly those keys that break the load, change the engine or do not come back",
    answer="not_safe",
    check=_client_state,
    seconds=20,
    mistakes={
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
    },
)


CONVERTER_SECONDS = 20


def _other_ranks(answer):
    if not callable(answer):
        call(answer)
    meeting = Meeting()
    meeting.WAIT_SECONDS = CONVERTER_SECONDS + 5
    with common_folder() as folder, kept_engines() as make:
        engine = make(adam_config(2))
        train_steps(engine, 0, 2)
        engine.save_checkpoint(f"{folder}/run", tag="step2")
        train_steps(engine, 2, 4)
        command, fragment = _parts(meeting.call(answer, f"{folder}/run", "step2", f"{folder}/universal"))
        _judge_fragment(fragment)
        _convert(meeting, command, f"{folder}/universal")
        facts = meeting.facts(_resumed_alone(fragment, f"{folder}/universal", flat_weights(engine)))
        _judge_resumed(facts)
    return f"After two more steps on one rank no weight is more than {max(facts):.1g} from that of the two ranks."


def _parts(returned):
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise Unusable(f"Your function returns {describe(returned)}: it has to be (command, fragment).")
    command, fragment = returned
    if not isinstance(command, tuple | list) or not command or not all(isinstance(p, str | Path) for p in command):
        raise Unusable(f"The command is {describe(command)}: it has to be a list of texts, one for each argument.")
    require_dict(fragment, "The fragment")
    command = [str(part) for part in command]
    if any("zero_to_fp32" in part for part in command):
        raise Mistaken("weights only")
    return command, fragment


def _judge_fragment(fragment):
    if parsed_by_deepspeed(merge_configs(adam_config(2), fragment)).load_universal_checkpoint:
        return
    elsewhere = "load_universal" in str(fragment) and "load_universal" not in fragment.get("checkpoint", {})
    raise Mistaken("another place" if elsewhere else "not told")


def _convert(meeting, command, target):
    """Run the command on rank 0 and judge, on all ranks, how it ended."""
    ended = None
    if meeting.rank == 0:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CONVERTER_SECONDS)
            ended = [done.returncode, done.stderr.strip()[-2000:]]
        except (OSError, subprocess.TimeoutExpired) as error:
            ended = [-1, first_line(error)]
    code, said = meeting.facts(ended)[0]
    if code and "optim_states.pt files" in said:
        raise Mistaken("not the tag")
    if code and "universal_checkpoint_info" in said:
        raise Mistaken("nothing injected")
    if code:
        raise Unusable(f"The command fails: {(said.splitlines() or ['it says nothing'])[-1][:300]}")
    if not os.path.isfile(f"{target}/latest_universal"):
        beside = os.path.isfile(f"{os.path.dirname(target)}/latest_universal")
        if beside:
            raise Mistaken("output without a tag")
        raise Unusable("The command ends well and leaves no universal checkpoint in the target folder.")


class _OneRank:
    """What DeepSpeed asks for the ranks: each process is a world of its own, with one rank."""

    def __init__(self):
        import torch.distributed as dist

        groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
        self.group = groups[dist.get_rank()]

    def __getattr__(self, name):
        if name.startswith("get_") and name.endswith("_parallel_group"):
            return lambda: self.group
        if name.startswith("get_") and name.endswith("_parallel_world_size"):
            return lambda: 1
        if name.startswith("get_") and name.endswith("_parallel_rank"):
            return lambda: 0
        raise AttributeError(name)


def _resumed_alone(fragment, target, expected):
    """Resume on one rank and train on as two ranks did; return how far apart the weights are, or the error."""
    from deepspeed.utils import groups

    before, engine = groups.mpu, None
    try:
        engine = new_engine(merge_configs(adam_config(2), fragment), seed=1, mpu=_OneRank())
        engine.load_checkpoint(target)
        train_steps(engine, 2, 4, rank=0, ranks=1)
        return apart(flat_weights(engine), expected)
    except Exception as error:
        return first_line(error)
    finally:
        if engine is not None:
            engine.destroy()
        groups.mpu = before  # the engine left it there for all that come after


def _judge_resumed(facts):
    for fact in facts:
        if isinstance(fact, str):
            raise Unusable(f"On one rank the resume fails: {fact}")
        if not fact < 1e-5:
            raise Unusable(f"On one rank the run goes on elsewhere: a weight is {fact:.2g} off after two steps.")


def _universal(flags, fragment='{"checkpoint": {"load_universal": True}}'):
    return f"""import sys

def to_other_ranks(checkpoint, tag, target):
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", {flags}]
    return command, {fragment}"""


_IN, _OUT = '"--input_folder", f"{checkpoint}/{tag}"', '"--output_folder", f"{target}/{tag}"'
_INJECT = '"--inject_missing_state"'
OTHER_RANKS = Exercise(
    id="05-other-ranks",
    title="From two ranks to one",
    difficulty=4,
    minutes=12,
    target="the converter runs, and one rank goes on with the weights that two ranks would have had",
    answer="to_other_ranks",
    check=_other_ranks,
    ranks=2,
    seconds=45,
    mistakes={
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
    },
)
