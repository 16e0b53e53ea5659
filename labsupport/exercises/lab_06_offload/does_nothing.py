"""Exercise 06-does-nothing: Which of these runs offload at all?."""

import os
import tempfile
from functools import cache

from labsupport.exercises.answers import describe, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_06_offload.parsed import BLOCKS
from labsupport.wording import first_line

TO_HOST = {"device": "cpu"}

RUNS = {
    "stage 0, optimizer to cpu": {"stage": 0, "offload_optimizer": TO_HOST},
    "stage 1, optimizer to cpu": {"stage": 1, "offload_optimizer": TO_HOST},
    "stage 2, optimizer to nvme": {"stage": 2, "offload_optimizer": {"device": "nvme"}},
    "stage 2, parameters to cpu": {"stage": 2, "offload_param": TO_HOST},
    "stage 3, parameters to cpu": {"stage": 3, "offload_param": TO_HOST},
}

PLACES = ("host", "drive", "nothing")


def _does_nothing(answer):
    require_dict(answer, "The answer")
    for name in RUNS:
        if answer.get(name) not in PLACES:
            raise Unusable(f"For {name!r} the answer has {describe(answer.get(name))}: write one of {PLACES}.")
    unknown = sorted(set(answer) - set(RUNS))
    if unknown:
        raise Unusable(f"The answer has {unknown[0]!r}, which is none of the five runs.")
    for name in RUNS:
        found = _place_of(name)
        if answer[name] != found:
            raise Mistaken(name, said=answer[name], found=found)


@cache
def _place_of(name):
    """Where a real run of this config puts what it was told to offload, after one step."""
    import deepspeed
    import torch

    with tempfile.TemporaryDirectory() as folder:
        zero = {key: dict(value) if isinstance(value, dict) else value for key, value in RUNS[name].items()}
        for block in BLOCKS:
            if zero.get(block, {}).get("device") == "nvme":
                zero[block]["nvme_path"] = folder
        # PyTorch's Adam at every stage, so that nothing is compiled; where its states lie is the same.
        adam = {"type": "AdamW", "params": {"lr": 0.001, "torch_adam": True}}
        config = {"train_batch_size": 2, "optimizer": adam, "zero_optimization": {"reduce_bucket_size": 1000, **zero}}
        try:
            engine, *_ = deepspeed.initialize(model=torch.nn.Linear(8, 8), config=config)
            engine.backward(engine(torch.ones(2, 8)).sum())
            engine.step()
        except Exception as error:
            raise Unusable(f"The run {name!r} does not work here ({first_line(error)}).", error) from error
        files = [file for _, _, names in os.walk(folder) for file in names]
        own = (getattr(engine.optimizer, each, False) for each in ("cpu_offload", *BLOCKS))
        place = "drive" if files else "host" if any(own) else "nothing"
        engine.destroy()
    return place


MISTAKES = {
    "stage 0, optimizer to cpu": Mistake(
        "At stage 0 you said {said}, and the engine did {found}: nothing is partitioned there, so an ordinary "
        "optimizer runs, without the code that could offload its states."
    ),
    "stage 1, optimizer to cpu": Mistake(
        "At stage 1 you said {said}, and the states are on the {found}: stage 1 partitions the optimizer's "
        "states, and a partitioned optimizer is all that this offload needs."
    ),
    "stage 2, optimizer to nvme": Mistake(
        "At stage 2 with nvme you said {said}, and the states are on the {found}: there is no file in the folder "
        "after a step, because only stage 3 has the code for files.",
        "Look at the two lines that the section prints, and at the optimizer's class in the first.",
    ),
    "stage 2, parameters to cpu": Mistake(
        "For parameters at stage 2 you said {said}, and the engine did {found}: below stage 3 the parameters are "
        "whole on every rank, and DeepSpeed moves only shards of them."
    ),
    "stage 3, parameters to cpu": Mistake(
        "For parameters at stage 3 you said {said}, and their shards are on the {found}: the parameters may go "
        "although the optimizer stays."
    ),
}


EXERCISE = Exercise(
    id="06-does-nothing",
    title="Which of these runs offload at all?",
    difficulty=3,
    minutes=5,
    target="all five predictions agree with what real engines do with the five configs",
    answer="where",
    check=_does_nothing,
    mistakes=MISTAKES,
)
