"""Exercise 02-client-optimizer: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "untested": (
        'sgd_config = {"train_batch_size": 4, "zero_optimization": {"stage": 2}}',
        """sgd_config = {
    "train_batch_size": 4, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": False,
}""",
    ),
    "inside zero_optimization": (
        'sgd_config = {"train_batch_size": 4, '
        '"zero_optimization": {"stage": 2, "zero_allow_untested_optimizer": True}}',
    ),
    "another stage": (
        'sgd_config = {"train_batch_size": 4}',
        'sgd_config = {"train_batch_size": 4, "zero_optimization": {"stage": 0}}',
        """sgd_config = {
    "train_batch_size": 4, "zero_optimisation": {"stage": 2}, "zero_allow_untested_optimizer": True,
}""",
        'sgd_config = {"train_batch_size": 4, "zero_allow_untested_optimizer": True, "stage": 2}',
    ),
    "misspelled": (
        """sgd_config = {
    "train_batch_size": 4, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizers": True,
}""",
        """sgd_config = {
    "train_batch_size": 4, "zero_optimization": {"stage": 2}, "allow_untested_optimizer": True,
}""",
    ),
    "named in the config": (
        """sgd_config = {
    "train_batch_size": 4, "zero_optimization": {"stage": 2}, "optimizer": {"type": "SGD", "params": {"lr": 0.5}},
}""",
    ),
}

RIGHT = (
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
)
