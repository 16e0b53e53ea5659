"""Exercise 03-bf16-accumulation: answers that are known to be wrong, by their mistake, and right ones."""


def _bf16_source(**more):
    """Return the source of a wrong config: the right one without data_types, and with what is given."""
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 16,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 2},
    } | more
    return f"bf16_config = {config!r}"


FP32_SUM = {"grad_accum_dtype": "fp32"}

WRONG = {
    "the model's format": (
        _bf16_source(),
        _bf16_source(gradient_clipping=0.0),
        _bf16_source(managed_gradient_accumulation=True),
        _bf16_source(seq_parallel_communication_data_type="fp32"),
    ),
    "no window": (
        _bf16_source(managed_gradient_accumulation=False),
        _bf16_source(managed_gradient_accumulation=False, data_types=FP32_SUM),
    ),
    "another format": (
        _bf16_source(data_types={"grad_accum_dtype": "bf16"}),
        _bf16_source(data_types={"grad_accum_dtype": "fp16"}),
    ),
    "in a block that refuses it": (
        _bf16_source(zero_optimization={"stage": 2} | FP32_SUM),
        _bf16_source(zero_optimization={"stage": 2, "data_types": FP32_SUM}),
        _bf16_source(bf16={"enabled": True} | FP32_SUM),
    ),
    "ignored": (
        _bf16_source(grad_accum_dtype="fp32"),
        _bf16_source(data_types={"grad_accumulation_dtype": "fp32"}),
        _bf16_source(data_types={"grad_dtype": "fp32"}),
        _bf16_source(data_type=FP32_SUM),
    ),
    "the format of communication": (_bf16_source(communication_data_type="fp32"),),
    "weights not in bf16": (
        _bf16_source(bf16={"enabled": False}, data_types=FP32_SUM),
        _bf16_source(bf16={}),
    ),
    "another stage": (_bf16_source(zero_optimization={"stage": 1}, data_types=FP32_SUM),),
    "another window": (
        _bf16_source(gradient_accumulation_steps=1, data_types=FP32_SUM),
        """bf16_config = {
    "train_batch_size": 16, "bf16": {"enabled": True}, "zero_optimization": {"stage": 2},
    "data_types": {"grad_accum_dtype": "fp32"},
}""",
    ),
}

RIGHT = (
    """bf16_config = {
    "train_batch_size": 64, "gradient_accumulation_steps": 16,
    "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "float32"},
    "zero_optimization": {"stage": 2},
}""",
    """from labsupport import create_deepspeed_config

bf16_config = create_deepspeed_config(
    stage=2, precision="bf16", gradient_accumulation_steps=16, train_batch_size=32, grad_accum_dtype="fp32",
)""",
    """bf16_config = dict(train_micro_batch_size_per_gpu=1, train_batch_size=32, gradient_clipping=1.0)
bf16_config["zero_optimization"] = {"stage": 2, "overlap_comm": True}
bf16_config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
bf16_config["optimizer"] = {"type": "AdamW", "params": {"lr": 1e-4}}""",
)
