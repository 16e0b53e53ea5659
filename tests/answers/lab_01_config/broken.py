"""Exercise 01-broken: answers that are known to be wrong, by their mistake, and right ones."""


def _mended(changes):
    return f"""from labsupport.exercises.lab_01_config.broken import config_to_mend

mended = config_to_mend()
zero = mended["zero_optimization"]
mended["gradient_accumulation_steps"] = 4
mended["gradient_clipping"] = mended.pop("gradient_cliping")
zero["stage"] = 3
mended["data_types"] = zero.pop("data_types")
{changes}
"""


WRONG = {
    "triple left": (
        _mended('mended["gradient_accumulation_steps"] = 2'),
        "from labsupport.exercises.lab_01_config.broken import config_to_mend\n"
        'mended = config_to_mend()\nmended["zero_optimization"].pop("data_types")',
    ),
    "data_types left": (_mended('zero["data_types"] = mended.pop("data_types")'),),
    "other batch": (
        _mended('mended |= {"train_batch_size": 16, "gradient_accumulation_steps": 2}'),
        _mended('mended |= {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2}'),
    ),
    "still clips": (
        _mended('mended["gradient_cliping"] = mended.pop("gradient_clipping")'),
        _mended('del mended["gradient_clipping"]'),
    ),
    "stage left": (_mended('zero["stage"] = 2'), _mended('zero["stage"] = 1')),
    "offload changed": (
        _mended('zero |= {"stage": 2}\ndel zero["offload_param"]'),
        _mended('del zero["offload_optimizer"]'),
        _mended('zero["offload_optimizer"]["device"] = "none"'),
        _mended('zero["offload_optimizer"]["ratio"] = 0.5'),
        _mended('zero["offload_param"] = {"device": "nvme", "nvme_path": "/tmp"}'),
    ),
    "optimizer changed": (
        _mended('del mended["optimizer"]'),
        _mended('mended["optimizer"]["params"]["lr"] = 3e-3'),
        _mended('mended["optimizer"]["params"]["adam_w_mode"] = False\nmended["optimizer"]["type"] = "Adam"'),
        _mended('mended["optimizer"]["params"] = {}'),
    ),
    "more changed": (
        _mended('mended["optimizer"]["params"]["weight_decay"] = 0.1'),
        _mended('mended["optimizer"]["params"]["betas"] = [0.9, 0.95]'),
        _mended('mended["communication_data_type"] = "fp16"'),
        _mended('mended["bf16"]["bf16_master_weights_and_grads"] = True'),
    ),
    "accumulation removed": (
        _mended('del mended["data_types"]'),
        _mended('mended["grad_accum_dtype"] = mended.pop("data_types")["grad_accum_dtype"]'),
        _mended('mended["data_types"] = {"gradient_accumulation_dtype": "fp32"}'),
        _mended('mended["data_types"] = {"grad_accum_dtype": "bf16"}'),
    ),
    "precision changed": (_mended('del mended["bf16"]'),),
}

RIGHT = (
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

from labsupport.exercises.lab_01_config.broken import config_to_mend

text = json.dumps(config_to_mend()).replace("cliping", "clipping").replace('"stage": 2', '"stage": 3')
mended = json.loads(text.replace('_steps": 2', '_steps": 4'))
mended["data_types"] = mended["zero_optimization"].pop("data_types")""",
    """from labsupport import create_deepspeed_config

mended = create_deepspeed_config(3, False, 4, 32, True, True, precision="bf16", micro_batch_size=4,
                                 gradient_clipping=0.0, grad_accum_dtype="fp32")""",
)
