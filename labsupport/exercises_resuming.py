"""The exercises of lab 05 on what comes back: your own state, and a run on another number of ranks."""

import functools
import os
import subprocess
from pathlib import Path

from labsupport import mistakes_resuming as mistakes
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
from labsupport.exercises.answers import call, describe, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.exercises.meeting import Meeting
from labsupport.wording import first_line

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
    mistakes=mistakes.CLIENT_STATE,
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
    mistakes=mistakes.OTHER_RANKS,
)
