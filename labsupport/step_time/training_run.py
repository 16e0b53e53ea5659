"""MODELLED: how long a training run takes, in days, GPU-hours and money, from the time of one step. No torch.

    run = training(step, step_tokens=64 * 8192, world_size=64, tokens=1e12)
    run.tokens_per_second, run.gpu_hours, run.cost(price_per_gpu_hour=2.5)

A run is taken as its steps alone: no evaluation, checkpoints, restarts or idle GPUs.
"""

from typing import NamedTuple

from labsupport.arguments import require_number


class Training(NamedTuple):
    """A whole run as modelled: tokens a second of all GPUs together, seconds, and GPU-hours."""

    tokens_per_second: float
    seconds: float
    gpu_hours: float

    def cost(self, price_per_gpu_hour):
        """Return what the GPU-hours cost, in the currency of the price; raises ConfigError for a price below 0."""
        require_number("price_per_gpu_hour", price_per_gpu_hour)
        return self.gpu_hours * price_per_gpu_hour


def training(step, step_tokens, world_size, tokens):
    """Return the Training of `tokens` tokens in steps of `step_tokens`, each as long as the StepTime expects.

    step_tokens: of one optimizer step over all GPUs. Raises ConfigError for numbers below one.
    """
    for name, value in {"step_tokens": step_tokens, "world_size": world_size, "tokens": tokens}.items():
        require_number(name, value, at_least=1)
    rate = step_tokens / step.expected_seconds
    seconds = tokens / rate
    return Training(rate, seconds, world_size * seconds / 3600)
