"""`import labsupport` is light: what needs no tensors does not wait for torch."""

import subprocess
import sys

import pytest

LIGHT = [
    "labsupport",
    "labsupport.config",
    "labsupport.doctor",
    "labsupport.doctor.__main__",
    "labsupport.machine",
    "labsupport.machine.cards",
    "labsupport.launch",
    "labsupport.memory",
    "labsupport.memory.report",
    "labsupport.memory.messages",
    "labsupport.measure",
    "labsupport.measure.agreement",
    "labsupport.step_time.model",
    "labsupport.step_time.published",
    "labsupport.ranks.live_training",
    "labsupport.exercises",
    "labsupport.gpu",
    "labsupport.gpu.session",
    "labsupport.gpu.tables",
    "labsupport.widgets",
    "labsupport.widgets.page",
]


@pytest.mark.parametrize("module", LIGHT)
def test_import_loads_no_torch(module):
    code = f"import {module}, sys; sys.exit(any(name in sys.modules for name in ('torch', 'deepspeed', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_is_there_and_is_one_object():
    import labsupport
    from labsupport import deepspeed_trainer

    for name in labsupport.__all__:
        assert getattr(labsupport, name) is not None
    names = ("create_deepspeed_config", "create_offload_config", "initialize_deepspeed", "DeepSpeedTrainer")
    for name in names:
        assert getattr(deepspeed_trainer, name) is getattr(labsupport, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = labsupport.nothing
