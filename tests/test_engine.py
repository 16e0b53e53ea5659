"""From a config to an engine: what this machine refuses, and the ways to start without a launcher."""

import os
import socket
import subprocess
import sys

import pytest
import rank_work

from labsupport.engine import LAUNCHER_VARIABLES, free_port
from labsupport.machine.hardware import describe_machine
from labsupport.settings import Settings


def on_ranks(two_ranks, function, *arguments, **options):
    name, text = two_ranks.run(rank_work.sentence_of, function, *arguments, **options)[0]
    assert "\n" not in text
    return name, text


def test_fp16_is_refused_where_the_accelerator_has_none(two_ranks):
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().is_fp16_supported():
        pytest.skip("this processor runs fp16")
    name, text = on_ranks(two_ranks, "initialize_precision", "fp16")
    assert name == "ConfigError" and 'precision="bf16"' in text


def test_client_optimizers_that_cannot_work_are_refused(two_ranks):
    name, text = on_ranks(two_ranks, "initialize_sgd", 2, offload_optimizer=True)
    assert name == "ConfigError" and "SGD" in text and "DeepSpeedCPUAdam" in text
    name, text = on_ranks(two_ranks, "initialize_sgd", 2)
    assert name == "ConfigError" and "zero_allow_untested_optimizer" in text


def test_what_only_deepspeed_finds_wrong_is_one_sentence_too(two_ranks):
    config = rank_work.fp32_config(2)
    config["zero_optimization"]["reduce_buckets"] = 1
    name, text = on_ranks(two_ranks, "initialize_raw", config)
    assert name == "ConfigError" and "reduce_buckets" in text
    name, text = on_ranks(two_ranks, "initialize_raw", {"train_batch_size": 7})
    assert name == "ConfigError" and "2 ranks" in text


ONE_RANK = """
import torch
from labsupport import DeepSpeedTrainer, create_deepspeed_config
config = create_deepspeed_config(2, precision="fp32", train_batch_size=2)
trainer = DeepSpeedTrainer(torch.nn.Linear(2, 1), config, loss_fn=torch.nn.functional.mse_loss)
trainer.train_step((torch.ones(2, 2), torch.zeros(2, 1)))
print("ranks:", torch.distributed.get_world_size(), type(trainer.engine).__name__)
"""


def run_python(code, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", code]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=300)


def test_without_a_launcher_there_is_one_rank():
    done = run_python(ONE_RANK)
    assert done.returncode == 0, done.stderr
    assert "ranks: 1 DeepSpeedEngine" in done.stdout
    assert "Optimizer: torch AdamW" in done.stdout, "the choice is printed"
    assert "destroy_process_group" not in done.stderr


def test_a_port_in_use_is_told_in_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        group = dict(zip(LAUNCHER_VARIABLES, ("0", "0", "1", "127.0.0.1", port), strict=True))
        done = run_python("from labsupport.engine import start_distributed; start_distributed()", **group)
    assert f"Port {port} is already in use" in done.stderr


def test_half_a_launcher_is_told_in_one_sentence():
    done = run_python("from labsupport.engine import start_distributed; start_distributed()", RANK="0", WORLD_SIZE="2")
    assert "The launcher set RANK, WORLD_SIZE but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT" in done.stderr


def test_more_ranks_than_gpus_is_told_in_one_sentence(monkeypatch):
    import torch

    from labsupport import engine
    from labsupport.errors import TrainingError

    class Accelerator:
        def device_name(self):
            return "cuda"

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(engine, "accelerator", Accelerator)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in zip(LAUNCHER_VARIABLES, ("1", "1", "2", "127.0.0.1", str(free_port())), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="Local rank 1 has no GPU: this machine shows 1"):
        engine.start_distributed()


def test_bf16_is_refused_on_a_gpu_that_only_emulates_it(monkeypatch):
    import torch

    from labsupport import engine
    from labsupport.errors import ConfigError

    class Accelerator:
        def device_name(self):
            return "cuda"

        is_fp16_supported = is_bf16_supported = lambda self: True

    monkeypatch.setattr(engine, "accelerator", Accelerator)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    with pytest.raises(ConfigError, match=r"only emulated on this GPU \(Tesla T4\).*fp16"):
        engine._check_precision_runs_here(Settings(precision="bf16"))
    engine._check_precision_runs_here(Settings(precision="fp16"))


def test_a_full_gpu_is_told_in_one_sentence_by_the_trainer(two_ranks):
    for name, sentence in two_ranks.run(rank_work.step_on_a_full_gpu):
        assert name == "TrainingError" and "ran out of memory" in sentence and "smaller micro-batch" in sentence
        assert "\n" not in sentence


def test_nvme_offload_from_a_gpu_needs_the_toolkit(monkeypatch, tmp_path):
    import torch.utils.cpp_extension

    from labsupport import engine
    from labsupport.errors import TrainingError
    from labsupport.machine import hardware

    class Accelerator:
        def device_name(self):
            return "cuda"

    monkeypatch.setattr(hardware, "nvme_is_available", lambda: True)
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", None)
    settings = Settings(stage=3, offload_optimizer="nvme", optimizer_nvme_path=str(tmp_path))
    engine._check_nvme_runs_here(settings, torch.nn.Linear(2, 1))
    monkeypatch.setattr(engine, "accelerator", Accelerator)
    with pytest.raises(TrainingError, match="needs the CUDA toolkit"):
        engine._check_nvme_runs_here(settings, torch.nn.Linear(2, 1))


def test_the_buffers_that_nvme_locks_are_those_of_the_planner():
    from labsupport import engine
    from labsupport.memory.model_states import shares_of
    from labsupport.memory.planner import plan
    from labsupport.models import build_model, shape_named
    from labsupport.settings import nvme_buffer_bytes, read_settings

    config = rank_work.fp32_config(3, offload_optimizer="nvme", offload_param="nvme") | {"train_batch_size": 12}
    model, sizes = build_model("tiny"), shape_named("tiny").tensor_sizes
    for ranks in (1, 2, 3):
        share, settings = engine._share(model, ranks), read_settings(config, ranks)
        assert share == shares_of(sizes, settings).share >= sum(sizes) / ranks
        assert nvme_buffer_bytes(share, settings) == plan("tiny", config, world_size=ranks).nvme_buffer_bytes


def with_optimizer(name, stage, **options):
    config = rank_work.fp32_config(stage, **options)
    return config | {"optimizer": {"type": name}, "zero_allow_untested_optimizer": True}


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop"])  # one that the planner knows, and one that it does not
def test_whatever_the_optimizer_it_trains(two_ranks, name):
    for first, *_, last in two_ranks.run(rank_work.losses_with, with_optimizer(name, 2)):
        assert last < first


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop"])
def test_whatever_the_optimizer_its_nvme_buffers_are_counted(two_ranks, name, tmp_path):
    """A linear layer's weight of 2 and bias of 1, on 2 ranks: 2 numbers a buffer, which takes 1024 bytes."""
    config = with_optimizer(name, 3, offload_optimizer="nvme", nvme_path=str(tmp_path))
    assert two_ranks.run(rank_work.nvme_buffers_looked_at, config) == [4 * 1024] * 2


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop"])
def test_an_nvme_folder_that_cannot_be_written_is_refused(two_ranks, name, tmp_path):
    if not describe_machine().nvme:
        pytest.skip("libaio is not installed")
    (tmp_path / "file").write_text("")
    config = with_optimizer(name, 3, offload_optimizer="nvme", nvme_path=str(tmp_path / "file" / "below"))
    error, text = on_ranks(two_ranks, "initialize_raw", config)
    assert error == "TrainingError" and "cannot be written" in text


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop"])
def test_whatever_the_optimizer_the_precision_is_checked(two_ranks, name):
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().is_fp16_supported():
        pytest.skip("this processor runs fp16")
    error, text = on_ranks(two_ranks, "initialize_raw", with_optimizer(name, 2, precision="fp16"))
    assert error == "ConfigError" and 'precision="bf16"' in text


SMALL = {"reduce_bucket_size": 100_000, "allgather_bucket_size": 100_000}
TAKEN = {
    "an unknown key": {"zero_optimisation": {"stage": 2}},
    "a name in other letters": {"optimizer": {"type": "adamw", "params": {"lr": 1e-3}}},
    "no parameters": {"optimizer": {"type": "ADAM", "params": None}},
    "parameters of FusedAdam": {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "set_grad_none": True}}},
    "parameters that nothing offloads": {
        "zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}, **SMALL}
    },
    "a switch as a text": {"bf16": {"enabled": "true"}, "zero_optimization": {"stage": "1", **SMALL}},
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_deepspeed_trains_trains_here(two_ranks, kind):
    config = {"train_micro_batch_size_per_gpu": 4, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}} | TAKEN[kind]
    for first, *_, last in two_ranks.run(rank_work.losses_with, config):
        assert last < first


def test_a_file_of_hjson_trains_and_what_is_silent_is_printed_once_on_rank_0(two_ranks, tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text(
        "{ // by hand\n train_micro_batch_size_per_gpu: 2\n gradient_cliping: 0.5,\n"
        " optimizer: {type: adamw\n params: {lr: 0.1}}}"
    )
    (first, again), other = two_ranks.run(rank_work.said_of, str(path))
    assert first.count("Config: ") == 1 and "did you mean 'gradient_clipping'?" in first
    assert "Config: " not in again and not any("Config: " in text for text in other)


def test_what_deepspeed_refuses_late_is_refused_before_it_starts(two_ranks):
    config = {"train_batch_size": 8, "optimizer": {"type": "Lamb", "params": {"lr": 0.1}}}
    name, text = on_ranks(two_ranks, "initialize_raw", config)
    assert name == "ConfigError" and "op for GPUs" in text
    name, text = on_ranks(two_ranks, "initialize_raw", {"train_batch_size": 8, "zero_optimization": {"stage": 2}})
    assert name == "ConfigError" and "names no optimizer" in text


def test_torchs_adam_decays_no_more_than_the_config_says():
    """FusedAdam, which DeepSpeed would take, has no weight decay of its own; torch's AdamW has 0.01."""
    from unittest import mock

    from labsupport import engine

    config = {"optimizer": {"type": "AdamW", "params": {"lr": 0.1, "bias_correction": True}}}
    no_compiler = mock.patch.object(engine, "fused_adam", lambda device: (False, ""))
    with no_compiler, mock.patch("torch.distributed.get_rank", lambda: 1):
        engine.choose_adam(config, Settings())
    assert config["optimizer"]["params"] == {"weight_decay": 0.0, "lr": 0.1, "torch_adam": True}
