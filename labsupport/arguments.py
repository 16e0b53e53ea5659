"""Checks of what a function is given, each in one sentence that names the argument. No torch."""

import math

from labsupport.errors import ConfigError


def require_stage(stage):
    """Raise ConfigError unless `stage` is 0, 1, 2 or 3."""
    if isinstance(stage, bool) or not isinstance(stage, int) or stage not in (0, 1, 2, 3):
        raise ConfigError(f"ZeRO stage is {stage!r}: choose 0, 1, 2 or 3.")


def require_positive_integer(name, value):
    """Raise ConfigError, naming `name`, unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is {value!r}: give a whole number of at least 1.")


def require_number(name, value, at_least=0, what="number"):
    """Raise ConfigError, naming `name`, unless `value` is a finite number of at least that; what: what to give."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value < math.inf:
        raise ConfigError(f"{name} is {value!r}: give a {what} of at least {at_least}.")
