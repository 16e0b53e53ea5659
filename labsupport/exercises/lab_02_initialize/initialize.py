"""Exercise 02-initialize: The call that makes an engine."""

import contextlib
import copy

from labsupport.exercises.answers import call, describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable

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


MISTAKES = {
    "the engine alone": Mistake(
        "Your function returns the engine alone. Programs that unpack `engine, optimizer, dataloader, scheduler` "
        "then fail: `deepspeed.initialize` returns four objects."
    ),
    "not four": Mistake(
        "Your function returns {count} objects. `deepspeed.initialize` returns four, also where the last two are None.",
        "The table in the section names the four.",
    ),
    "arguments in another place": Mistake(
        "DeepSpeed did not get what you meant it to get: the first position of `deepspeed.initialize` is `args`, "
        "and the second the model. {error}",
        "Name every argument.",
    ),
    "client ignored": Mistake(
        "A client optimizer was given (Adam, lr 0.05), and the engine steps with another one: {kind}, lr {lr}. "
        "DeepSpeed uses a client optimizer only where it is handed over as `optimizer`."
    ),
    "config ignored": Mistake(
        "No client optimizer was given, and the engine steps with {kind}, lr {lr}, weight decay {decay}; the "
        "config asks for AdamW, lr 0.01, weight decay 0.1. Whatever is handed over as `optimizer` wins over the "
        "config.",
        "What does DeepSpeed do where `optimizer` is None?",
    ),
    "a copy": Mistake(
        "The engine wraps a copy of the model. The caller's model would keep the weights that it had at the start, "
        "and a client optimizer over its parameters would know nothing of the engine.",
        "`engine.module is model` has to be true.",
    ),
    "another stage": Mistake(
        "The config asks for stage 2, and the engine runs stage {stage}: hand the config over unchanged."
    ),
    "not the wrapper": Mistake(
        "The second object is {kind}. At stage 2 DeepSpeed returns its own {wrapper} there, with the real "
        "optimizer inside: a program that saves or steps the inner one goes past ZeRO."
    ),
}


EXERCISE = Exercise(
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
    mistakes=MISTAKES,
)
