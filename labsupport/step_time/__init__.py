"""MODELLED: how long a step takes on GPUs and networks that are not here, and how far it scales. No torch."""

from labsupport.step_time.model import GPT, cluster, gpt, step_time, strong_scaling, weak_scaling

__all__ = ["GPT", "cluster", "gpt", "step_time", "strong_scaling", "weak_scaling"]
