"""Right answers to the exercises of lab 02, each written differently from the lab's own solution."""

RIGHT = {
    "02-initialize": (
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
    ),
    "02-client-optimizer": (
        """sgd_config = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 2, "overlap_comm": False},
}""",
        """from labsupport import create_deepspeed_config

sgd_config = create_deepspeed_config(stage=2, precision="fp32", train_batch_size=8)
sgd_config["zero_allow_untested_optimizer"] = True""",
        """sgd_config = dict(train_batch_size=8, gradient_accumulation_steps=2, zero_optimization=dict(stage=2))
sgd_config["bf16"] = {"enabled": True}
sgd_config |= {"zero_allow_untested_optimizer": True, "optimizer": {"type": "SGD", "params": {"lr": 0.1}}}""",
    ),
    "02-held-bytes": (
        """def bytes_per_parameter(precision, world_size):
    start = (4 if precision == "fp32" else 2) + 4 / world_size
    return [start, start + 8 / world_size]""",
        """WEIGHTS = {"fp32": 4, "bf16": 2}

def bytes_per_parameter(precision, world_size):
    masters, adam = 4 / world_size, 2 * 4 / world_size
    return WEIGHTS[precision] + masters, WEIGHTS[precision] + masters + adam""",
        """def bytes_per_parameter(precision, n):
    w = 2
    if precision != "bf16":
        w *= 2
    return ((n * w + 4) / n, (n * w + 12) / n)""",
    ),
}
