"""MODELLED: how long a step takes on GPUs and networks that are not here, and how far it scales. No torch."""

from labsupport import lazily

_MODULE_OF = {
    "GPT": "transformer",
    "cluster": "machines",
    "gpt": "transformer",
    "step_time": "model",
    "strong_scaling": "scaling",
    "training": "training_run",
    "weak_scaling": "scaling",
}

__all__ = sorted(_MODULE_OF)
__getattr__ = lazily(__name__, _MODULE_OF)
