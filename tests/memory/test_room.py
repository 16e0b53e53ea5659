"""What this machine cannot run is said in one sentence, and nothing else is refused."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from labsupport import create_deepspeed_config
from labsupport.machine import probes as machine
from labsupport.memory import room as obstacle
from labsupport.memory.planner import plan
from labsupport.memory.room import ALLOWANCE_BYTES
from labsupport.runs import Run


def why_not(config, model, ranks, accelerator=None, sequence_length=128):
    return obstacle.obstacle(Run(model, config, ranks, sequence_length), accelerator)


def config(stage=2, world_size=2, **choices):
    choices = {"precision": "bf16", "micro_batch_size": 4, "train_batch_size": 4 * world_size} | choices
    return create_deepspeed_config(stage, world_size=world_size, **choices)


def test_what_fits_meets_no_obstacle():
    assert why_not(config(), "1m", 2) == ""
    assert why_not(config(3, world_size=4, precision="fp32"), "10m", 4) == ""


@pytest.mark.parametrize(("ranks", "refused"), [(4, False), (5, True), (64, True)])
def test_more_ranks_than_a_processor_should_run(ranks, refused):
    sentence = why_not(config(world_size=ranks), "tiny", ranks)
    assert sentence.startswith(f"{ranks} ranks are more than the 4") if refused else sentence == ""


def test_more_ranks_than_gpus(monkeypatch):
    monkeypatch.setattr(obstacle, "gpu_count", lambda: 1)
    monkeypatch.setattr(obstacle, "free_gpu_bytes", lambda: 2**40)
    assert why_not(config(), "1m", 2, "cuda").startswith("2 ranks are more than the 1")
    monkeypatch.setattr(machine, "gpu_count", lambda: 1)
    assert machine.default_accelerator(1) == "cuda" and machine.default_accelerator(2) == "cpu"
    assert why_not(config(), "1m", 2) == "", "two ranks then run on the processor"


@pytest.mark.parametrize("supported", [False, True])
def test_fp16_where_the_processor_refuses_it(monkeypatch, supported):
    monkeypatch.setattr(obstacle, "processor_computes_fp16", lambda: supported)
    sentence = why_not(config(precision="fp16"), "1m", 2)
    assert sentence == ("" if supported else "This machine's processor does not train in fp16: choose bf16 or fp32.")
    assert why_not(config(precision="bf16"), "1m", 2) == ""


def test_fp16_is_asked_as_deepspeed_asks_it():
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    assert machine.processor_computes_fp16() == bool(CPU_Accelerator().is_fp16_supported())


def test_nvme_without_libaio_and_without_room(monkeypatch):
    nvme = config(3, offload_optimizer="nvme")
    monkeypatch.setattr(obstacle, "nvme_is_available", lambda: False)
    assert "install the package libaio-dev" in why_not(nvme, "1m", 2)
    assert why_not(config(3, offload_optimizer="cpu"), "1m", 2) == ""
    monkeypatch.setattr(obstacle, "nvme_is_available", lambda: True)
    files = 2 * sum(plan("1m", nvme, world_size=2, accelerator="cpu").moments["at rest"]["NVMe"].values())
    for free, refused in ((files, False), (files - 1, True)):
        monkeypatch.setattr(obstacle.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert why_not(nvme, "1m", 2).startswith("The files would take") is refused


@pytest.mark.parametrize(("stage", "model"), [(0, "85m"), (3, "85m"), (3, "7b")])
def test_a_model_for_which_there_is_no_memory(monkeypatch, stage, model):
    planned = plan(model, config(stage), world_size=2, sequence_length=128, accelerator="cpu")
    needed = 2 * (planned.peak_bytes + obstacle.RANK_BYTES)
    for free, refused in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr(obstacle.psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        sentence = why_not(config(stage), model, 2)
        assert sentence.startswith(f"{model} would take about") if refused else sentence == ""
        assert sentence.count(".") <= 3 and sentence.endswith("." if refused else "")


def test_the_gpus_free_memory_decides_on_a_gpu(monkeypatch):
    monkeypatch.setattr(obstacle, "gpu_count", lambda: 1)
    planned = plan("85m", config(world_size=1), world_size=1, sequence_length=128, accelerator="cuda")
    needed = planned.peak_bytes + ALLOWANCE_BYTES
    for free, refused in ((needed, False), (needed - 1, True), (None, False)):
        monkeypatch.setattr(obstacle, "free_gpu_bytes", lambda free=free: free)
        assert bool(why_not(config(world_size=1), "85m", 1, "cuda")) is refused


def test_what_is_offloaded_must_fit_into_the_hosts_memory(monkeypatch):
    monkeypatch.setattr(obstacle, "gpu_count", lambda: 1)
    monkeypatch.setattr(obstacle, "free_gpu_bytes", lambda: 2**40)
    offloaded = config(2, world_size=1)
    offloaded["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    planned = plan("85m", offloaded, world_size=1, sequence_length=128, accelerator="cuda")
    needed = planned.host_bytes("peak")
    assert needed > 12 * planned.parameters, "fp32 weights and Adam's two states"
    for free, refused in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr(obstacle.psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert why_not(offloaded, "85m", 1, "cuda").startswith("85m would offload about") is refused


def test_the_program_refuses_what_cannot_fit_before_it_builds_the_model(monkeypatch):
    from labsupport import deepspeed_trainer as program
    from labsupport.errors import TrainingError
    from labsupport.memory import room as obstacle

    monkeypatch.setattr(obstacle, "free_gpu_bytes", lambda: 2**30)
    run = Run("7b", config(world_size=1), world_size=1, sequence_length=128)
    with pytest.raises(TrainingError, match="7b would take about .* the GPU has 1.0 GiB free"):
        program._require_memory(run)
    monkeypatch.setattr(obstacle, "free_gpu_bytes", lambda: None)
    program._require_memory(run)


def test_what_deepspeed_would_refuse_is_told_too():
    wrong = config()
    wrong["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "ratio": 0.5}
    assert why_not(wrong, "1m", 2).startswith("offload_optimizer.ratio is below 1")
    assert why_not(config(), "1m", 3).startswith("train_batch_size 8 is not")
    assert "reads at most 128 tokens" in why_not(config(), "tiny", 2, sequence_length=256)


def test_asking_loads_no_torch():
    code = (
        "import sys\n"
        "from labsupport.memory.planner import choices_config\n"
        "from labsupport.memory.room import obstacle\n"
        "from labsupport.runs import Run\n"
        "assert obstacle(Run('1m', choices_config(stage=3, offload_optimizer='nvme'), 2)) is not None\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
