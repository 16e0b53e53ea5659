"""Right answers to the exercises of lab 01, each written differently from the lab's own solution."""

SIGNATURE = """def create_deepspeed_config(stage=2, fp16=True, gradient_accumulation_steps=1, train_batch_size=32,
                            offload_optimizer=False, offload_param=False):
"""

RIGHT = {
    "01-batch": (
        'batch_config = {"train_micro_batch_size_per_gpu": 6, "gradient_accumulation_steps": 4}',
        'batch_config = dict(gradient_accumulation_steps=6, train_micro_batch_size_per_gpu=4, fp16={"enabled": True})',
        """batch_config = {"train_micro_batch_size_per_gpu": 1}
batch_config["gradient_accumulation_steps"] = 96 // 4""",
    ),
    "01-read": (
        """prediction = dict(stage=0, precision="fp16", train_batch_size=4 * 3 * 4, gradient_clipping=1,
                  first_loss_scale=2**12)""",
        """from deepspeed.runtime.config import DeepSpeedConfig

from labsupport.exercises_config import config_to_read

read = DeepSpeedConfig(config_to_read())
prediction = {"stage": read.zero_optimization_stage, "precision": "fp16", "train_batch_size": 4 * read.train_batch_size,
              "gradient_clipping": read.gradient_clipping, "first_loss_scale": 4096.0}""",
        """prediction = {"first_loss_scale": 4096, "gradient_clipping": 1.0, "train_batch_size": 48, "stage": 0.0}
prediction["precision"] = "fp16"
prediction["note"] = "the block is misspelt" """,
    ),
    "01-config": (
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
    ),
    "01-broken": (
        """mended = {
    "train_batch_size": 32,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_clipping": 0,
    "optimizer": {"type": "AdamW", "params": {"lr": 3e-4}},
    "bf16": {"enabled": True},
    "data_types": {"grad_accum_dtype": "fp32"},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
}""",
        """import json

from labsupport.exercises_config import config_to_mend

text = json.dumps(config_to_mend()).replace("cliping", "clipping").replace('"stage": 2', '"stage": 3')
mended = json.loads(text.replace('_steps": 2', '_steps": 4'))
mended["data_types"] = mended["zero_optimization"].pop("data_types")""",
        """from labsupport import create_deepspeed_config

mended = create_deepspeed_config(3, False, 4, 32, True, True, precision="bf16", micro_batch_size=4,
                                 gradient_clipping=0.0, grad_accum_dtype="fp32")""",
    ),
}
