"""The trainer, the live ranks and the measurements that the DeepSpeed labs import.

`import labsupport` loads nothing heavy: each public name is imported from its module on first use, so
that a page or a planner that needs no tensors never waits for torch.
"""

from importlib import import_module


def lazily(package, module_of):
    """Return a `__getattr__` for `package` that imports each name of {name: module} when it is first asked for."""

    def __getattr__(name):
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return __getattr__


_MODULE_OF = {
    "create_deepspeed_config": "config",
    "create_offload_config": "config",
    "initialize_deepspeed": "engine",
    "describe_machine": "machine.hardware",
    "DeepSpeedTrainer": "trainer",
    "start_ranks": "ranks.notebook",
    "run_program": "launch",
    "LabError": "errors",
}

__all__ = sorted(_MODULE_OF)
__getattr__ = lazily(__name__, _MODULE_OF)


def __dir__():
    return sorted({*globals(), *_MODULE_OF})
