"""Exercise 05-other-ranks: From two ranks to one."""

import os
import subprocess
from pathlib import Path

from labsupport.config import merge_configs
from labsupport.exercises.answers import call, describe, first_difference, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_05_checkpointing.engines import (
    adam_config,
    apart,
    common_folder,
    flat_weights,
    kept_engines,
    new_engine,
    train_steps,
)
from labsupport.exercises.meeting import Meeting, world_of_one
from labsupport.wording import first_line

CONVERTER_SECONDS = 20
OWN = ("load_universal_checkpoint", "checkpoint_config")  # what a fragment may change of the config in force


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
        engine.save_checkpoint(f"{folder}/run", tag="step4")  # which `latest` names from now on
        command, fragment = _parts(meeting.call(answer, f"{folder}/run", "step2", f"{folder}/universal"))
        if any(meeting.facts(os.path.exists(f"{folder}/universal/latest_universal"))):
            raise Mistaken("runs it")
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
    parsed = parsed_by_deepspeed(merge_configs(adam_config(2), fragment))
    if parsed.load_universal_checkpoint:
        found = first_difference(parsed, parsed_by_deepspeed(adam_config(2)), ignored=OWN)
        if found:
            raise Mistaken("more than the resume", key=found[0], value=found[1], other=found[2])
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


def _resumed_alone(fragment, target, expected):
    """Resume on one rank and train on as two ranks did; return how far apart the weights are, or the error."""
    engine = None
    with world_of_one() as alone:
        try:
            engine = new_engine(merge_configs(adam_config(2), fragment), seed=1, mpu=alone)
            engine.load_checkpoint(target)
            train_steps(engine, 2, 4, rank=0, ranks=1)
            return apart(flat_weights(engine), expected)
        except Exception as error:
            return first_line(error)
        finally:
            if engine is not None:
                engine.destroy()


def _judge_resumed(facts):
    for fact in facts:
        if isinstance(fact, str):
            raise Unusable(f"On one rank the resume fails: {fact}")
        if not fact < 1e-5:
            raise Mistaken("another checkpoint", apart=f"{fact:.2g}")


MISTAKES = {
    "not the tag": Mistake(
        "The converter finds no optimizer files. Its input is the folder of one tag, where the files lie, and not "
        "the folder above it."
    ),
    "nothing injected": Mistake(
        "The converter refuses this checkpoint: the description of the parameters that it looks for is missing. At "
        "stages 1 and 2 DeepSpeed does not write it by itself; the converter can put it in."
    ),
    "output without a tag": Mistake(
        "The universal checkpoint lies in `target` itself, and `latest_universal` beside it. "
        "`load_checkpoint(target)` looks for it in `target`: the output is the folder of a tag, as the input is."
    ),
    "not told": Mistake(
        "With this fragment DeepSpeed looks for an ordinary checkpoint. In a folder that has only "
        "`latest_universal` it finds none, returns (None, None), and trains from random weights."
    ),
    "another place": Mistake(
        "DeepSpeed does not read `load_universal` where it stands in your fragment: it ignores an unknown key at "
        "the top without a word. The key belongs into a block of its own."
    ),
    "weights only": Mistake(
        "`zero_to_fp32` writes the weights and nothing else. A resume needs Adam's states and the counters as "
        "well, so another converter is needed."
    ),
    "runs it": Mistake(
        "Your function has converted the checkpoint itself. It has to return the command; whoever calls it runs that, "
        "once, and not on every rank."
    ),
    "more than the resume": Mistake(
        "The fragment also changes {key}: DeepSpeed reads {value}, and without the fragment {other}. The resume needs "
        "the block that tells it what to load, and nothing else."
    ),
    "another checkpoint": Mistake(
        "On one rank the run goes on elsewhere: a weight is {apart} off after two steps. Usually another checkpoint "
        "than that of `tag` was converted; the file `latest` may name a later one."
    ),
    "hangs": Mistake(
        "Your function does not come back on every rank. It has to return the command, not to run it, and it needs "
        "no other rank."
    ),
}


EXERCISE = Exercise(
    id="05-other-ranks",
    title="From two ranks to one",
    difficulty=4,
    minutes=12,
    target="the converter runs, and one rank goes on with the weights that two ranks would have had",
    answer="to_other_ranks",
    check=_other_ranks,
    ranks=2,
    seconds=45,
    mistakes=MISTAKES,
)
