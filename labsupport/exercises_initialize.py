"""The exercises of lab 02: make an engine, bring your own optimizer, and know what a rank holds."""

import contextlib
import copy
import difflib
from functools import cache

from labsupport import mistakes_initialize as mistakes
from labsupport.config_checks import TOP_LEVEL_KEYS
from labsupport.exercises.answers import call, describe, parsed_by_deepspeed, require_number
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.mistakes_initialize import KEY
from labsupport.wording import first_line

CONFIG_PARAMS = {"lr": 0.01, "weight_decay": 0.1, "torch_adam": True}
CLIENT_LR = 0.05


def _initialize(answer):
    for with_client in (False, True):
        _judge_engine(answer, with_client)


def _judge_engine(answer, with_client):
    """Let the reader's function make an engine, and look at what it wraps and what one step of it does."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    reference = copy.deepcopy(model)
    client = torch.optim.Adam(model.parameters(), lr=CLIENT_LR) if with_client else None
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "AdamW", "params": dict(CONFIG_PARAMS)},
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "allgather_bucket_size": 1000},
    }
    try:
        returned = call(answer, model, config, client) if with_client else call(answer, model, config)
    except Unusable as problem:
        if "requires a model" in str(problem.error) or "requires --deepspeed_config" in str(problem.error):
            raise Mistaken("arguments in another place", error=problem) from problem
        raise
    engine = _engine_of(returned)
    try:
        _require_parts(engine, returned, model, client)
        _require_update(engine, reference, with_client)
    finally:
        with contextlib.suppress(Exception):
            engine.destroy()


def _engine_of(returned):
    if hasattr(returned, "backward") and hasattr(returned, "module"):
        raise Mistaken("the engine alone")
    if not isinstance(returned, tuple | list):
        raise Unusable(f"Your function returned {describe(returned)}: return the four objects.")
    if len(returned) != 4:
        raise Mistaken("not four", count=len(returned))
    if not (hasattr(returned[0], "backward") and hasattr(returned[0], "module")):
        raise Unusable(
            f"The first object that your function returned is {describe(returned[0])}: it has to be the engine."
        )
    return returned[0]


def _require_parts(engine, returned, model, client):
    if engine.module is not model:
        raise Mistaken("a copy")
    if engine.zero_optimization_stage() != 2:
        raise Mistaken("another stage", stage=int(engine.zero_optimization_stage()))
    inner = engine.basic_optimizer
    if client is not None and inner is not client:
        raise Mistaken("client ignored", kind=type(inner).__name__, lr=inner.param_groups[0]["lr"])
    group = inner.param_groups[0]
    if client is None and (type(inner).__name__, group["lr"], group["weight_decay"]) != ("AdamW", 0.01, 0.1):
        raise Mistaken(
            "config ignored", kind=type(inner).__name__, lr=group["lr"], decay=group.get("weight_decay", "no")
        )
    if returned[1] is not engine.optimizer:
        kind = "None" if returned[1] is None else type(returned[1]).__name__
        raise Mistaken("not the wrapper", kind=kind, wrapper=type(engine.optimizer).__name__)
    if returned[2] is not engine.training_dataloader or returned[3] is not engine.lr_scheduler:
        raise Unusable("The third and fourth object are not the dataloader and the scheduler that DeepSpeed returned.")


def _require_update(engine, reference, with_client):
    """Raise Unusable unless one step moves the weights as plain torch does on the samples of both ranks."""
    import torch

    samples = torch.tensor([[1.0, -2.0, 3.0, 0.5], [2.0, 1.0, -1.0, 4.0]])
    engine.backward(engine(samples[engine.global_rank : engine.global_rank + 1]).pow(2).mean())
    engine.step()
    if with_client:
        optimizer = torch.optim.Adam(reference.parameters(), lr=CLIENT_LR)
    else:
        optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.1)
    reference(samples).pow(2).mean().backward()
    optimizer.step()
    for mine, expected in zip(engine.module.parameters(), reference.parameters(), strict=True):
        if not torch.allclose(mine, expected, atol=1e-4):
            raise Unusable(
                "After one training step of your engine the weights are not those of plain PyTorch: hand the model, "
                "the config and the optimizer over as they are."
            )


INITIALIZE = Exercise(
    id="02-initialize",
    title="The call that makes an engine",
    difficulty=2,
    minutes=6,
    target="the engine wraps the model itself and trains at the config's stage, with the client's optimizer where "
    "there is one, and with the config's where not",
    answer="make_engine",
    check=_initialize,
    ranks=2,
    seconds=30,
    mistakes=mistakes.INITIALIZE,
)


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
    near = difflib.get_close_matches(KEY, map(str, set(config) - TOP_LEVEL_KEYS), n=1, cutoff=0.6)
    if near:
        return Mistaken("misspelled", key=near[0])
    if str((config.get("optimizer") or {}).get("type", "")).lower() == "sgd" and KEY not in config:
        return Mistaken("named in the config")
    return Mistaken("untested")


CLIENT_OPTIMIZER = Exercise(
    id="02-client-optimizer",
    title="SGD of your own at stage 2",
    difficulty=2,
    minutes=5,
    target="torch.optim.SGD, handed over as client optimizer, trains on two ranks at stage 2",
    answer="sgd_config",
    check=_client_optimizer,
    ranks=2,
    seconds=30,
    mistakes=mistakes.CLIENT_OPTIMIZER,
)

# What a rank is believed to hold, by the misunderstanding: from the bytes of one weight and the number of ranks.
BELIEFS = {
    "weights divided": lambda weight, ranks: ((weight + 4) / ranks, (weight + 12) / ranks),
    "nothing divided": lambda weight, ranks: (weight + 4, weight + 12),
    "masters forgotten": lambda weight, ranks: (weight, weight + 8 / ranks),
    "no masters in fp32": lambda weight, ranks: (
        weight + (4 / ranks if weight == 2 else 0),
        weight + (12 if weight == 2 else 8) / ranks,
    ),
    "everything halved": lambda weight, ranks: (weight + weight / ranks, weight + 3 * weight / ranks),
    "states at once": lambda weight, ranks: (weight + 12 / ranks, weight + 12 / ranks),
    "gradients kept": lambda weight, ranks: (weight + 4 / ranks, weight + (12 + weight) / ranks),
    "one state": lambda weight, ranks: (weight + 4 / ranks, weight + 8 / ranks),
}
WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
WORLD_SIZES = (1, 2, 3, 8, 64)
MOMENTS = ("right after initialize", "after the first step")


def _held_bytes(answer):
    held = {(precision, ranks): _held(precision, ranks) for precision in WEIGHT_BYTES for ranks in WORLD_SIZES}
    said = {case: _pair(call(answer, *case)) for case in held}
    if _agree(said, held):
        return
    for name, belief in BELIEFS.items():
        if _agree(said, {(precision, n): belief(WEIGHT_BYTES[precision], n) for precision, n in held}):
            raise Mistaken(name)
    for (precision, ranks), right in held.items():
        for when, mine, expected in zip(MOMENTS, said[precision, ranks], right, strict=True):
            if not _near(mine, expected):
                raise Mistaken(
                    "another number",
                    precision=precision,
                    ranks=ranks,
                    when=when,
                    said=f"{mine:.3g}",
                    held=f"{expected:.3g}",
                )


def _pair(value):
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Unusable(f"Your function returned {describe(value)}: return two numbers, at the start and after a step.")
    return tuple(require_number(each, "One of the two numbers") for each in value)


def _near(one, other):
    return abs(one - other) <= 0.02  # bytes per parameter: the counts of a real engine are rounded up a little


def _agree(said, expected):
    return all(_near(a, b) for case in expected for a, b in zip(said[case], expected[case], strict=True))


@cache
def _held(precision, ranks):
    """Bytes per parameter at both moments: counted on a real engine for one rank, planned for more of them."""
    return _counted(precision) if ranks == 1 else _planned(precision, ranks)


def _counted(precision):
    import torch

    from labsupport.config import create_deepspeed_config
    from labsupport.engine import initialize_deepspeed
    from labsupport.measure.ledger import held_bytes, model_state_total
    from labsupport.models import count_parameters

    config = create_deepspeed_config(2, precision=precision, train_batch_size=1, bucket_size=1000)
    engine, *_ = initialize_deepspeed(torch.nn.Linear(128, 128, bias=False), config)
    count = count_parameters(engine.module)
    fresh = model_state_total(held_bytes(engine, everything=False)) / count
    engine.backward(engine(torch.ones(1, 128, dtype=engine.module.weight.dtype)).sum())
    engine.step()
    stepped = model_state_total(held_bytes(engine, everything=False)) / count
    engine.destroy()
    return fresh, stepped


def _planned(precision, ranks):
    from labsupport.measure.ledger import model_state_total
    from labsupport.memory.planner import plan

    count = 10**9
    planned = plan(count, world_size=ranks, stage=2, precision=precision, accelerator="cpu")
    return tuple(model_state_total(planned.held(moment)) / count for moment in ("after initialisation", "at rest"))


HELD_BYTES = Exercise(
    id="02-held-bytes",
    title="Bytes per parameter on one rank",
    difficulty=3,
    minutes=8,
    target="your numbers are those of a real engine on one rank, and of the planner on up to 64 ranks",
    answer="bytes_per_parameter",
    check=_held_bytes,
    seconds=30,
    mistakes=mistakes.HELD_BYTES,
)

EXERCISES = (INITIALIZE, CLIENT_OPTIMIZER, HELD_BYTES)
