"""Exercise 02-initialize: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "the engine alone": (
        """import deepspeed

def make_engine(model, config, optimizer=None):
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine""",
    ),
    "not four": (
        """import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[:2]""",
    ),
    "arguments in another place": (
        """import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model, config=config, optimizer=optimizer)""",
        """import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model, config, optimizer)""",
    ),
    "client ignored": (
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
    "config ignored": (
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
    "a copy": (
        """import copy
import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model=copy.deepcopy(model), optimizer=optimizer, config=config)""",
        """import deepspeed
import torch

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model=torch.nn.Sequential(model), optimizer=optimizer, config=config)""",
    ),
    "another stage": (
        """import deepspeed

def make_engine(model, config, optimizer=None):
    config = {"train_batch_size": 2, "optimizer": config["optimizer"]}
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)""",
    ),
    "not the wrapper": (
        """import deepspeed

def make_engine(model, config, optimizer=None):
    engine, _, loader, scheduler = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, optimizer, loader, scheduler""",
        """import deepspeed

def make_engine(model, config, optimizer=None):
    engine, _, loader, scheduler = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, engine.basic_optimizer, loader, scheduler""",
    ),
}

RIGHT = (
    """import deepspeed

def make_engine(model, config, optimizer=None):
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)""",
    """import deepspeed

def make_engine(net, ds_config, optimizer=None):
    trained = [each for each in net.parameters() if each.requires_grad]
    if optimizer is None:
        parts = deepspeed.initialize(None, net, None, trained, config=ds_config)
    else:
        parts = deepspeed.initialize(None, net, optimizer, config=ds_config)
    return list(parts)""",
    """from labsupport import initialize_deepspeed

def make_engine(model, config, optimizer=None):
    engine, outer, loader, scheduler = initialize_deepspeed(model, config, optimizer)
    return engine, outer, loader, scheduler""",
)
