"""Exercise 02-client-optimizer: SGD of your own at stage 2."""

import copy
import difflib

from labsupport.doctor.known import known
from labsupport.exercises.answers import parsed_by_deepspeed
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.wording import first_line

KEY = "zero_allow_untested_optimizer"


def _client_optimizer(config):
    values = _accepted(config)
    if int(values.zero_optimization_stage) != 2:
        raise Mistaken("another stage", stage=int(values.zero_optimization_stage))
    if values.gradient_accumulation_steps > 16:
        raise Unusable(
            f"The config asks for {values.gradient_accumulation_steps} accumulation steps: for a trial 16 are enough."
        )
    _train_with_sgd(config, values)


def _accepted(config):
    """Return what DeepSpeed reads in the config, or raise what is wrong with it."""
    try:
        return parsed_by_deepspeed(config, world_size=2)
    except Unusable as refused:
        zero = config.get("zero_optimization") if isinstance(config, dict) else None
        if isinstance(zero, dict) and KEY in zero:
            raise Mistaken("inside zero_optimization") from refused
        raise


def _train_with_sgd(config, values):
    import deepspeed
    import torch

    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    client = torch.optim.SGD(model.parameters(), lr=0.5)
    small = copy.deepcopy(config)
    for bucket in ("reduce_bucket_size", "allgather_bucket_size"):  # DeepSpeed's own take a gigabyte
        small["zero_optimization"].setdefault(bucket, 1000)
    try:
        engine, *_ = deepspeed.initialize(model=model, optimizer=client, config=small)
    except Exception as error:
        if "untested" in str(error):
            raise _reason_for_refusal(config) from error
        raise Unusable(f"deepspeed.initialize refuses this config: {first_line(error)}", error) from error
    try:
        for _ in range(3 * values.gradient_accumulation_steps):  # a warm-up may begin with a rate of 0
            sample = torch.tensor([[0.1, 0.2]], dtype=engine.module.weight.dtype)
            engine.backward(engine(sample).sum())
            engine.step()
        moved = float((1 - engine.module.weight.float()).abs().sum())
        used = engine.basic_optimizer is client
    finally:
        engine.destroy()
    if not used or moved == 0 or not moved < 100:
        raise Unusable(
            f"Under this config three updates with SGD moved the weights by {moved:.3g}: look at its values."
        )


def _reason_for_refusal(config):
    near = difflib.get_close_matches(KEY, map(str, set(config) - set(known()["top_level"])), n=1, cutoff=0.6)
    if near:
        return Mistaken("misspelled", key=near[0])
    if str((config.get("optimizer") or {}).get("type", "")).lower() == "sgd" and KEY not in config:
        return Mistaken("named in the config")
    return Mistaken("untested")


MISTAKES = {
    "untested": Mistake(
        "DeepSpeed refuses: ZeRO has not been tested with SGD, and it cannot see whether SGD is right on a slice "
        "of the parameters. The config has to say that you vouch for it.",
        "The section names the key, and so does DeepSpeed's own error text.",
    ),
    "inside zero_optimization": Mistake(
        f'"{KEY}" stands inside "zero_optimization", where DeepSpeed knows no such key and refuses the block. '
        "Its name begins with zero, and its place is the top level."
    ),
    "another stage": Mistake(
        "DeepSpeed reads stage {stage} in this config. At stage 0 nothing is sliced, so that any optimizer is "
        "accepted there; the task is stage 2."
    ),
    "misspelled": Mistake(
        'DeepSpeed ignores the top-level key "{key}" without a word, because it does not know it. SGD is refused '
        "as if "
        "the key were not there.",
        "Copy the key from DeepSpeed's own error text.",
    ),
    "named in the config": Mistake(
        'Naming SGD in the "optimizer" block does not help: with a client optimizer that block is not used, and '
        "SGD "
        "is as untested there as here. The config has to say that you vouch for it."
    ),
}


EXERCISE = Exercise(
    id="02-client-optimizer",
    title="SGD of your own at stage 2",
    difficulty=2,
    minutes=5,
    target="torch.optim.SGD, handed over as client optimizer, trains on two ranks at stage 2",
    answer="sgd_config",
    check=_client_optimizer,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
