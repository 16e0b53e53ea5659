"""Exercise 01-batch: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "only the train batch": ('batch_config = {"train_batch_size": 96}',),
    "forgot the ranks": ('batch_config = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 12}',),
    "refused": (
        """batch_config = {
    "train_batch_size": 96, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3,
}""",
        'batch_config = {"train_batch_size": 96, "train_micro_batch_size_per_gpu": 7}',
    ),
    "too large a pass": (
        'batch_config = {"train_micro_batch_size_per_gpu": 24, "gradient_accumulation_steps": 1}',
        'batch_config = {"train_micro_batch_size_per_gpu": 12, "gradient_accumulation_steps": 2}',
        'batch_config = {"train_batch_size": 96, "gradient_accumulation_steps": 3}',
    ),
    "another batch": (
        'batch_config = {"train_micro_batch_size_per_gpu": 8}',
        'batch_config = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4}',
    ),
    "auto": (
        """batch_config = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3,
}""",
    ),
    "more than sizes": (
        """batch_config = {
    "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3, "bf16": {"enabled": True},
}""",
        """batch_config = {
    "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3, "zero_optimization": {"stage": 1},
}""",
        """batch_config = {
    "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3, "gradient_clipping": 0.0,
}""",
        'batch_config = {"train_batch_size": 96, "gradient_accumulation_steps": 6, "train_micro_batch": 4}',
        'batch_config = {"train_batch_size": 96, "gradient_accumulation_steps": 6, "wall_clock_breakdown": True}',
        'batch_config = {"train_batch_size": 96, "gradient_accumulation_steps": 6, "fp16": {"enabled": "auto"}}',
    ),
}

RIGHT = (
    'batch_config = {"train_batch_size": 96, "gradient_accumulation_steps": 6}',
    'batch_config = {"train_batch_size": 96, "train_micro_batch_size_per_gpu": 8}',
    'batch_config = {"train_micro_batch_size_per_gpu": 6, "gradient_accumulation_steps": 4}',
    "batch_config = dict(gradient_accumulation_steps=6, train_micro_batch_size_per_gpu=4)",
    """batch_config = {"train_micro_batch_size_per_gpu": 1}
batch_config["gradient_accumulation_steps"] = 96 // 4""",
)
