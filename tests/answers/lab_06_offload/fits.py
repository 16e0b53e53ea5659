"""Exercise 06-fits: answers that are known to be wrong, by their mistake, and right ones."""

_PLAN = """workstation_config = {
    "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}, "zero_optimization": %s,
}"""

WRONG = {
    "states on the card": (
        _PLAN % '{"stage": 3}',
        _PLAN % '{"stage": 2}',
        _PLAN % '{"stage": 3, "offload_param": {"device": "cpu"}}',
    ),
    "parameters whole": (
        _PLAN % '{"stage": 2, "offload_optimizer": {"device": "cpu"}}',
        _PLAN % '{"stage": 1, "offload_optimizer": {"device": "cpu"}}',
    ),
    "kept whole": (
        _PLAN
        % """{
        "stage": 3, "offload_optimizer": {"device": "cpu"}, "stage3_param_persistence_threshold": 1000000000,
    }""",
    ),
    "host too small": (
        _PLAN % '{"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}',
    ),
    "more than states": (
        _PLAN
        % """{
        "stage": 3, "offload_optimizer": {"device": "cpu"},
        "reduce_bucket_size": 5000000000, "stage3_prefetch_bucket_size": 5000000000,
    }""",
    ),
    "drive": (
        _PLAN % '{"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/mnt/drive"}}',
        _PLAN
        % """{"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/mnt/drive"},
        "offload_param": {"device": "cpu"}}""",
    ),
    "does nothing": (
        _PLAN % '{"stage": 2, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}',
        _PLAN % '{"stage": 2, "offload_optimizer": {"device": "nvme", "nvme_path": "/mnt/drive"}}',
        _PLAN % '{"stage": 0, "offload_optimizer": {"device": "cpu"}}',
    ),
    "another training": (
        (_PLAN % '{"stage": 3, "offload_optimizer": {"device": "cpu"}}').replace(
            '"params": {', '"params": {"fp32_optimizer_states": False, '
        ),
        (_PLAN % '{"stage": 3, "offload_optimizer": {"device": "cpu"}}').replace(
            '"AdamW", "params": {', '"Adam", "params": {"adam_w_mode": False, '
        ),
        """workstation_config = {
    "train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
}""",
        """workstation_config = {
    "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True},
    "optimizer": {"type": "SGD", "params": {"lr": 1e-4}}, "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 3},
}""",
    ),
}

RIGHT = (
    """from labsupport import create_deepspeed_config

sizes = dict(train_batch_size=4, world_size=4)
workstation_config = create_deepspeed_config(stage=3, precision="bf16", offload_optimizer="cpu", **sizes)""",
    """workstation_config = {
    "train_batch_size": 8, "bf16": {"enabled": True}, "optimizer": {"type": "Adam", "params": {"lr": 3e-4}},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": False}},
}""",
    """adam = {"type": "AdamW", "params": {"lr": 1e-4}}
workstation_config = dict(train_micro_batch_size_per_gpu=1, optimizer=adam)
workstation_config["bf16"] = {"enabled": True}
zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "none"}}
workstation_config["zero_optimization"] = zero""",
)
