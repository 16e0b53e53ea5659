"""The trainer, the live ranks and the measurements that the DeepSpeed labs import.

`import labsupport` loads nothing heavy: each public name is imported from its module on first use, so
that a page or a planner that needs no tensors never waits for torch.
"""

from importlib import import_module

_MODULE_OF = {
    "create_deepspeed_config": "config",
    "create_offload_config": "config",
    "initialize_deepspeed": "engine",
    "describe_machine": "hardware",
    "DeepSpeedTrainer": "deepspeed_trainer",
    "start_ranks": "cluster",
    "run_program": "launch",
    "LabError": "errors",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'labsupport' has no attribute {name!r}")
    return getattr(import_module(f"labsupport.{_MODULE_OF[name]}"), name)


def __dir__():
    return sorted({*globals(), *_MODULE_OF})
