"""What readers get wrong in exercises_initialize.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake

KEY = "zero_allow_untested_optimizer"

INITIALIZE = {
    "the engine alone": Mistake(
        "Your function returns the engine alone. Programs that unpack `engine, optimizer, dataloader, scheduler` "
        "then fail: `deepspeed.initialize` returns four objects.",
        (
            """import deepspeed

def make_engine(model, config, optimizer=None):
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine""",
        ),
    ),
    "not four": Mistake(
        "Your function returns {count} objects. `deepspeed.initialize` returns four, also where the last two are None.",
        (
            """import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[:2]""",
        ),
        "The table in the section names the four.",
    ),
    "arguments in another place": Mistake(
        "DeepSpeed did not get what you meant it to get: the first position of `deepspeed.initialize` is `args`, "
        "and the second the model. {error}",
        (
            """import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model, config=config, optimizer=optimizer)""",
            """import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model, config, optimizer)""",
        ),
        "Name every argument.",
    ),
    "client ignored": Mistake(
        "A client optimizer was given (Adam, lr 0.05), and the engine steps with another one: {kind}, lr {lr}. "
        "DeepSpeed uses a client optimizer only where it is handed over as `optimizer`.",
        (
            """import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)""",
            """import deepspeed

def make_engine(model, config, optimizer=None):
    if optimizer is not None:
        config["optimizer"] = {
            "type": type(optimizer).__name__, "params": {"lr": optimizer.param_groups[0]["lr"], "torch_adam": True},
        }
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)""",
        ),
    ),
    "config ignored": Mistake(
        "No client optimizer was given, and the engine steps with {kind}, lr {lr}, weight decay {decay}; the "
        "config asks for AdamW, lr 0.01, weight decay 0.1. Whatever is handed over as `optimizer` wins over the "
        "config.",
        (
            """import deepspeed
import torch

def make_engine(model, config, optimizer=None):
    optimizer = optimizer or torch.optim.AdamW(model.parameters())
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)""",
            """import deepspeed
import torch

def make_engine(model, config, optimizer=None):
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=config["optimizer"]["params"]["lr"])
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)""",
        ),
        "What does DeepSpeed do where `optimizer` is None?",
    ),
    "a copy": Mistake(
        "The engine wraps a copy of the model. The caller's model would keep the weights that it had at the start, "
        "and a client optimizer over its parameters would know nothing of the engine.",
        (
            """import copy
import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model=copy.deepcopy(model), optimizer=optimizer, config=config)""",
            """import deepspeed
import torch

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model=torch.nn.Sequential(model), optimizer=optimizer, config=config)""",
        ),
        "`engine.module is model` has to be true.",
    ),
    "another stage": Mistake(
        "The config asks for stage 2, and the engine runs stage {stage}: hand the config over unchanged.",
        (
            """import deepspeed

def make_engine(model, config, optimizer=None):
    config = {"train_batch_size": 2, "optimizer": config["optimizer"]}
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)""",
        ),
    ),
    "not the wrapper": Mistake(
        "The second object is {kind}. At stage 2 DeepSpeed returns its own {wrapper} there, with the real "
        "optimizer inside: a program that saves or steps the inner one goes past ZeRO.",
        (
            """import deepspeed

def make_engine(model, config, optimizer=None):
    engine, _, loader, scheduler = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, optimizer, loader, scheduler""",
            """import deepspeed

def make_engine(model, config, optimizer=None):
    engine, _, loader, scheduler = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, engine.basic_optimizer, loader, scheduler""",
        ),
    ),
}

CLIENT_OPTIMIZER = {
    "untested": Mistake(
        "DeepSpeed refuses: ZeRO has not been tested with SGD, and it cannot see whether SGD is right on a slice "
        "of the parameters. The config has to say that you vouch for it.",
        (
            'sgd_config = {"train_batch_size": 4, "zero_optimization": {"stage": 2}}',
            """sgd_config = {
    "train_batch_size": 4, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": False,
}""",
        ),
        "The section names the key, and so does DeepSpeed's own error text.",
    ),
    "inside zero_optimization": Mistake(
        f'"{KEY}" stands inside "zero_optimization", where DeepSpeed knows no such key and refuses the block. '
        "Its name begins with zero, and its place is the top level.",
        (
            'sgd_config = {"train_batch_size": 4, '
            '"zero_optimization": {"stage": 2, "zero_allow_untested_optimizer": True}}',
        ),
    ),
    "another stage": Mistake(
        "DeepSpeed reads stage {stage} in this config. At stage 0 nothing is sliced, so that any optimizer is "
        "accepted there; the task is stage 2.",
        (
            'sgd_config = {"train_batch_size": 4}',
            'sgd_config = {"train_batch_size": 4, "zero_optimization": {"stage": 0}}',
            """sgd_config = {
    "train_batch_size": 4, "zero_optimisation": {"stage": 2}, "zero_allow_untested_optimizer": True,
}""",
            'sgd_config = {"train_batch_size": 4, "zero_allow_untested_optimizer": True, "stage": 2}',
        ),
    ),
    "misspelled": Mistake(
        'DeepSpeed ignores the top-level key "{key}" without a word, because it does not know it. SGD is refused '
        "as if "
        "the key were not there.",
        (
            """sgd_config = {
    "train_batch_size": 4, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizers": True,
}""",
            """sgd_config = {
    "train_batch_size": 4, "zero_optimization": {"stage": 2}, "allow_untested_optimizer": True,
}""",
        ),
        "Copy the key from DeepSpeed's own error text.",
    ),
    "named in the config": Mistake(
        'Naming SGD in the "optimizer" block does not help: with a client optimizer that block is not used, and '
        "SGD "
        "is as untested there as here. The config has to say that you vouch for it.",
        (
            """sgd_config = {
    "train_batch_size": 4, "zero_optimization": {"stage": 2}, "optimizer": {"type": "SGD", "params": {"lr": 0.5}},
}""",
        ),
    ),
}

HELD_BYTES = {
    "weights divided": Mistake(
        "You divide the weights by the ranks too. Stage 2 leaves the weights whole on every rank, and splits the "
        "masters and Adam's states.",
        (
            """def bytes_per_parameter(precision, world_size):
    weight = 4 if precision == "fp32" else 2
    return (weight + 4) / world_size, (weight + 12) / world_size""",
        ),
        "Splitting the weights is what stage 3 adds.",
    ),
    "nothing divided": Mistake(
        "Your numbers are the same on 2 ranks as on 64. At stage 2 each rank keeps the masters and Adam's states "
        "of its own part only.",
        (
            """def bytes_per_parameter(precision, world_size):
    weight = 4 if precision == "fp32" else 2
    return weight + 4, weight + 12""",
        ),
    ),
    "masters forgotten": Mistake(
        "You leave out the master weights. ZeRO updates an fp32 copy of its own, whatever the precision of the model.",
        (
            """def bytes_per_parameter(precision, world_size):
    weight = 4 if precision == "fp32" else 2
    return weight, weight + 8 / world_size""",
        ),
    ),
    "no masters in fp32": Mistake(
        "You give the fp32 model no master weights. They would be a second copy of the same numbers, and DeepSpeed "
        "keeps them all the same: ZeRO updates its own flat copy.",
        (
            """def bytes_per_parameter(precision, world_size):
    if precision == "fp32":
        return 4, 4 + 8 / world_size
    return 2 + 4 / world_size, 2 + 12 / world_size""",
        ),
    ),
    "everything halved": Mistake(
        "You halve everything for bf16. Only the model's own weights are in bf16: the masters and Adam's states "
        "take 4 bytes a number in both cases.",
        (
            """def bytes_per_parameter(precision, world_size):
    each = {"fp32": 4, "bf16": 2}[precision]
    return each + each / world_size, each + 3 * each / world_size""",
        ),
    ),
    "states at once": Mistake(
        "You count Adam's states right after initialize. PyTorch's Adam makes them in the first step, which is "
        "why a program that fits at the start can run out of memory there.",
        (
            """def bytes_per_parameter(precision, world_size):
    total = {"fp32": 4, "bf16": 2}[precision] + 12 / world_size
    return total, total""",
        ),
    ),
    "gradients kept": Mistake(
        "You count gradients after the step. They are there between backward and step, and the step frees them.",
        (
            """def bytes_per_parameter(precision, world_size):
    weight = {"fp32": 4, "bf16": 2}[precision]
    return weight + 4 / world_size, weight + (12 + weight) / world_size""",
        ),
    ),
    "one state": Mistake(
        "You count one state for Adam. It keeps two numbers per parameter, the mean of the gradients and the mean "
        "of their squares, of 4 bytes each.",
        (
            """def bytes_per_parameter(precision, world_size):
    weight = {"fp32": 4, "bf16": 2}[precision]
    return weight + 4 / world_size, weight + 8 / world_size""",
        ),
    ),
    "another number": Mistake(
        "{precision} on a world of {ranks}: your function says {said} bytes per parameter {when}. A rank really "
        "holds {held}.",
        (
            """def bytes_per_parameter(precision, world_size):
    return (8, 16) if precision == "fp32" else (4, 8)""",
            """def bytes_per_parameter(precision, world_size):
    weight = {"fp32": 4, "bf16": 2}[precision]
    return weight + 12 / world_size, weight + 4 / world_size""",
        ),
        "Start from the table of the section: one row for each state.",
    ),
}
