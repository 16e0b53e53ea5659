"""Exercise 01-config: answers that are known to be wrong, by their mistake, and right ones."""


def _config_answer(body):
    head = """def create_deepspeed_config(stage=2, fp16=True, gradient_accumulation_steps=1, train_batch_size=32,
                            offload_optimizer=False, offload_param=False):
    zero = {"stage": stage}
    if offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if offload_param:
        zero["offload_param"] = {"device": "cpu"}
    config = {"train_batch_size": train_batch_size, "gradient_accumulation_steps": gradient_accumulation_steps,
              "optimizer": {"type": "AdamW", "params": {"lr": 3e-4}}, "zero_optimization": zero}
    if fp16:
        config["fp16"] = {"enabled": True, "loss_scale": 0}
"""
    return f"{head}    {body}\n    return config\n"


SIGNATURE = """def create_deepspeed_config(stage=2, fp16=True, gradient_accumulation_steps=1, train_batch_size=32,
                            offload_optimizer=False, offload_param=False):
"""

WRONG = {
    "stage not read": (
        _config_answer('config["zero_optimisation"] = config.pop("zero_optimization")'),
        _config_answer('config["stage"] = config.pop("zero_optimization")["stage"]'),
        _config_answer('zero["stage"] = 2'),
    ),
    "sizes": (
        _config_answer('config["train_micro_batch_size_per_gpu"] = train_batch_size'),
        _config_answer('config["train_micro_batch_size_per_gpu"] = config.pop("train_batch_size")'),
        _config_answer('config["train_batch_size"] *= gradient_accumulation_steps'),
        _config_answer('del config["gradient_accumulation_steps"]'),
        _config_answer(
            'config["train_micro_batch_size_per_gpu"] = train_batch_size // gradient_accumulation_steps // 2'
        ),
        _config_answer(
            'per_rank = config.pop("train_batch_size") // gradient_accumulation_steps // 4\n'
            '    config["train_micro_batch_size_per_gpu"] = per_rank'
        ),
    ),
    "precision": (
        _config_answer('config["fp16"] = {"enabled": True, "loss_scale": 0}'),
        _config_answer('config["fp16"] = {"loss_scale": 0}'),
        _config_answer('config["precision"] = "fp16" if config.pop("fp16", None) else "fp32"'),
    ),
    "fixed loss scale": (
        _config_answer('if fp16: config["fp16"]["loss_scale"] = 1'),
        _config_answer('if fp16: config["fp16"]["loss_scale"] = 65536'),
    ),
    "offload as a flag": (
        _config_answer("zero.update(offload_optimizer=offload_optimizer, offload_param=offload_param)"),
        _config_answer('if offload_param: zero["offload_param"] = "cpu"'),
    ),
    "offload not read": (
        _config_answer('config |= {name: zero.pop(name) for name in list(zero) if name.startswith("off")}'),
        _config_answer('zero.pop("offload_param", None)'),
        _config_answer('if offload_optimizer: zero["offload_optimizer"] = {"device": "none"}'),
        _config_answer('if offload_param: zero["offload_param"] = {"device": "nvme", "nvme_path": "/tmp"}'),
    ),
    "offload not asked for": (
        _config_answer('zero["offload_optimizer"] = {"device": "cpu"}'),
        "zero = {}\n"
        + _config_answer('config["zero_optimization"] = BASE')
        .replace('    zero = {"stage": stage}\n', '    zero = BASE\n    BASE["stage"] = stage\n')
        .replace("def create", "BASE = {}\n\n\ndef create", 1),
    ),
    "another optimizer": (
        _config_answer('del config["optimizer"]'),
        _config_answer('config["optimizer"] = {"type": "SGD", "params": {"lr": 0.1}}'),
        _config_answer('config["optimizer"] = {"type": "Adam", "params": {"lr": 1e-4, "adam_w_mode": False}}'),
        _config_answer('if not fp16: del config["optimizer"]'),
    ),
}

RIGHT = (
    SIGNATURE
    + """    cpu = {"device": "cpu", "pin_memory": True}
    return {
        "train_batch_size": train_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
        "fp16": {"enabled": fp16},
        "zero_optimization": {"stage": stage} | ({"offload_optimizer": cpu} if offload_optimizer else {})
        | ({"offload_param": cpu} if offload_param else {}),
    }""",
    SIGNATURE
    + """    where = lambda wanted: {"device": "cpu" if wanted else "none"}
    zero = dict(stage=stage, offload_optimizer=where(offload_optimizer), offload_param=where(offload_param))
    half = "fp16" if fp16 else "bf16"
    return {"zero_optimization": zero, half: {"enabled": True}, "train_batch_size": train_batch_size,
            "gradient_accumulation_steps": gradient_accumulation_steps, "gradient_clipping": 0.0,
            "optimizer": {"type": "adamw", "params": {"lr": 0.1}}}""",
    """import json


def create_deepspeed_config(stage=2, fp16=True, gradient_accumulation_steps=1, train_batch_size=32, *offloads,
                            offload_optimizer=False, offload_param=False):
    flags = offloads or (offload_optimizer, offload_param)
    config = json.loads('{"optimizer": {"type": "AdamW", "params": {"lr": 0.0003}}, "zero_optimization": {}}')
    config.update(train_batch_size=train_batch_size, gradient_accumulation_steps=gradient_accumulation_steps)
    config["zero_optimization"]["stage"] = stage
    for key, wanted in zip(("offload_optimizer", "offload_param"), flags):
        if wanted:
            config["zero_optimization"][key] = {"device": "cpu"}
    if fp16:
        config["fp16"] = {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}
    return config""",
    "from labsupport import create_deepspeed_config",
)
