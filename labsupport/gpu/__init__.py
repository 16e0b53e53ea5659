"""The GPU tier: what `make gpu` measures, cell by cell, and how its records are shown."""

from labsupport import lazily

_MODULE_OF = {"memory_by_stage": "figures", "run_here": "session", "speed_by_stage": "figures"}

__all__ = sorted(_MODULE_OF)
__getattr__ = lazily(__name__, _MODULE_OF)
