"""MODELLED: how long a step takes on GPUs and networks that are not here, and how far it scales. No torch."""

from labsupport import lazily

_MODULE_OF = dict.fromkeys(("GPT", "cluster", "gpt", "step_time", "strong_scaling", "weak_scaling"), "model")

__all__ = sorted(_MODULE_OF)
__getattr__ = lazily(__name__, _MODULE_OF)
