"""Exercise 05-client-state: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "all safe": ("not_safe = set()",),
    "only the weights": ('not_safe = {"module"}',),
    "safe after all": (
        """not_safe = {"epoch", "module", "global_steps", "optimizer", "lr_scheduler", "data_sampler",
            "global_samples", "best_loss", "tokens_seen"}""",
        'not_safe = {"epoch", "global_steps", "module", "optimizer", "lr_scheduler"}',
    ),
    "the load fails": (
        'not_safe = {"module", "global_steps", "global_samples", "optimizer", "data_sampler"}',
        'not_safe = {"optimizer", "lr_scheduler"}',
    ),
    "the engine changed": (
        'not_safe = {"module", "optimizer", "lr_scheduler", "data_sampler"}',
        'not_safe = {"module", "global_steps", "optimizer", "lr_scheduler", "data_sampler"}',
    ),
    "it did not come back": (
        'not_safe = {"module", "lr_scheduler", "global_steps", "global_samples"}',
        'not_safe = {"module", "lr_scheduler", "global_steps", "global_samples", "optimizer"}',
    ),
}

RIGHT = (
    'not_safe = ["module", "global_steps", "global_samples", "optimizer", "lr_scheduler", "data_sampler"]',
    """own = "epoch best_loss my_state tokens_seen".split()
keys = ["epoch", "module", "global_steps", "optimizer", "best_loss", "data_sampler", "lr_scheduler", "my_state",
        "global_samples", "tokens_seen"]
not_safe = {key for key in keys if key not in own}""",
    """not_safe = frozenset(
    ("global_samples", "global_steps", "lr_scheduler", "module", "data_sampler", "optimizer")
)""",
)
