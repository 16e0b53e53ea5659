"""Every mistake that an entry calls reproduced is made here, and what happens must be what the entry quotes.

What differs from run to run, numbers and paths, is left out of the comparison; see `comparable`.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

from labsupport.symptoms.entries import symptoms

SYMPTOMS = {symptom.name: symptom for symptom in symptoms()}
MINIMAL = {"train_micro_batch_size_per_gpu": 2, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}
ZERO = {**MINIMAL, "zero_optimization": {}}

# DeepSpeed's reader of configs, alone: entry -> the configs.
CONFIGS = {
    "batch-triple": [
        {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1},
    ],
    "micro-batch-zero": [{"train_batch_size": 1, "gradient_accumulation_steps": 2}],
    "no-batch-size": [{"optimizer": MINIMAL["optimizer"]}],
    "auto": [
        {**MINIMAL, "train_batch_size": "auto"},
        dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto"),
    ],
    "extra-inputs": [{**MINIMAL, "zero_optimization": {"stage": 3, "aio": {}}}],
    "fraction": [{**MINIMAL, "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 15099494.4}}],
    "not-positive": [{**MINIMAL, "zero_optimization": {"stage": 2, "reduce_bucket_size": 0}}],
    "removed-key": [{**MINIMAL, "elasticity": {"enabled": False}}],
    "two-precisions": [{**MINIMAL, "fp16": {"enabled": True}, "bf16": {"enabled": True}}],
    "stage-number": [{**MINIMAL, "zero_optimization": {"stage": 4}}],
}
# What happens with no error at all, in the engine's process: entry -> what its function returns.
SILENT = {
    "no-update": "the weights did not change",
    "module-only": "the initial weights stayed",
    "no-latest": "(None, None)",
    "wrong-tag": "assert len(self.ckpt_list) > 0",  # an AssertionError without a text, and the line that raises it
    "other-stage": "assert len(self.ckpt_list) > 0",
    "nothing-saved": "False",
    "no-saving": "the only rank holds the whole",
}
FIRST_WORDS = re.compile(r"^([\w.]*(Error|Exception|Warning)|\w+\.py): +|^\[\w+\] +")


def comparable(text):
    """A text without what differs from run to run: numbers, paths, the name of the exception in front, some spaces."""
    lines = [FIRST_WORDS.sub("", line.strip()) for line in text.splitlines()]
    return [re.sub(r"\d+", "0", re.sub(r"['\[]?(/[\w.+-]+)+", "PATH", line)) for line in lines]


def check(name, told):
    """Assert that what happened is what the entry quotes, line for line, and that its pattern finds it."""
    symptom, heard = SYMPTOMS[name], "\n".join(comparable(told))
    for line in comparable(symptom.text):
        assert line.rstrip(".") in heard, f"{name}: {line!r} is not in {heard!r}"
    if symptom.patterns:
        assert symptom.finds(told), f"{name}: its patterns do not find {told!r}"


@pytest.mark.parametrize("entry", CONFIGS)
def test_config_error(entry):
    from deepspeed.runtime.config import DeepSpeedConfig

    told = []
    for config in CONFIGS[entry]:
        with pytest.raises(Exception) as raised:
            DeepSpeedConfig(config)
        told.append(f"{raised.type.__name__}: {raised.value}")
    check(entry, "\n".join(told))


def test_every_removed_key_is_found():
    from deepspeed.runtime import config

    removed = {**config._REMOVED_TOP_LEVEL_CONFIG_KEYS, **config._REMOVED_ZERO_CONFIG_KEYS}
    assert len(removed) >= 14
    for sentence in removed.values():
        assert SYMPTOMS["removed-key"].finds(f"DeepSpeedConfigError: {sentence}")


@pytest.mark.parametrize(("number", "path"), [(0, "ds_config.json"), (1, "./ds_config.json"), (2, "____")])
def test_no_config_file(number, path, tmp_path, monkeypatch):
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as raised:
        DeepSpeedConfig(path)
    quoted = SYMPTOMS["no-config-file"].text.splitlines()[number]
    assert comparable(quoted)[0].rstrip(".") in comparable(str(raised.value))[0]
    told = f"{raised.type.__module__}.{raised.type.__name__}: {raised.value}"
    assert SYMPTOMS["no-config-file"].finds(told)


def test_duplicate_keys():
    import hjson
    from deepspeed.runtime.config_utils import dict_raise_error_on_duplicate_keys

    with pytest.raises(ValueError) as raised:  # as DeepSpeed reads a file, which it would leave open here
        text = '{"train_batch_size": 1, "train_batch_size": 2}'
        hjson.loads(text, object_pairs_hook=dict_raise_error_on_duplicate_keys)
    check("duplicate-keys", str(raised.value))


# A running engine, in one process


def printed_by(module, *arguments, **variables):
    """What a module of this folder prints, both streams together."""
    command = [sys.executable, "-m", f"symptoms.{module}", *map(str, arguments)]
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])}
    child = subprocess.run(
        command, cwd=ROOT / "tests", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    return child.stdout


@pytest.fixture(scope="module")
def happened(tmp_path_factory):
    """What each mistake with an engine did, as {entry: text}; "entry, how" are further ways to the same entry."""
    file = tmp_path_factory.mktemp("engine") / "happened.json"
    said = printed_by("engine_mistakes", file)
    assert file.exists(), said[-3000:]
    return json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("entry", [name for name, each in SYMPTOMS.items() if each.reproduced == "test_engine_error"])
def test_engine_error(entry, happened):
    check(entry, "\n".join(told for name, told in happened.items() if name.partition(", ")[0] == entry))


@pytest.mark.slow
@pytest.mark.parametrize("entry", SILENT)
def test_what_happens_without_an_error(entry, happened):
    assert happened[entry].splitlines()[0] == SILENT[entry]
    assert SYMPTOMS[entry].reproduced == "test_what_happens_without_an_error"


@pytest.mark.slow
def test_no_latest_warns(happened):
    check("no-latest", happened["no-latest"])


@pytest.mark.slow
def test_checkpoints_of_another_stage(happened):
    check("other-stage", "\n".join([
        happened["other-stage"], "AssertionError", "    state_dict = state_dict.copy()", happened["other-stage, to 0"],
    ]))  # fmt: skip
    assert happened["other-stage, 1 to 2"].splitlines()[0] == "True", "the entry says that it loads"


@pytest.mark.slow
def test_frozen_parameters_fail_later(happened):
    assert happened["nvme-path, optimizer"].splitlines()[0] in SYMPTOMS["nvme-path"].cause
    assert happened["already-reduced, stage 3"].splitlines()[0] == (
        "assert len(set(p.ds_id for p in params_in_bucket)) == len(params_in_bucket)"
    )


@pytest.mark.slow
def test_trace_cache(happened):
    check("trace-cache", happened["trace-cache"])


@pytest.mark.slow
def test_tag_differs(happened):
    check("tag-differs", happened["tag-differs"])


@pytest.mark.slow
def test_fp16_on_a_cpu(happened):
    """Some CPUs do run fp16; DeepSpeed's text is needed only where this one does not."""
    if happened["fp16-cpu"].strip():
        check("fp16-cpu", happened["fp16-cpu"])


# torch and DeepSpeed's parts, in this process


def test_loss_scale(caplog):
    import logging

    import torch
    from deepspeed.runtime.fp16 import loss_scaler

    scaler = loss_scaler.DynamicLossScaler(65536.0, 1000, 32768.0, 1, False, dtype=torch.half)
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    level = loss_scaler.logger.level
    loss_scaler.logger.addHandler(handler)
    loss_scaler.logger.setLevel(logging.INFO)
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception) as raised:
            patch.setattr(loss_scaler.dist, "get_rank", lambda: 0)
            for _ in range(2):
                scaler.update_scale(overflow=True)
    finally:
        loss_scaler.logger.setLevel(level)
        loss_scaler.logger.removeHandler(handler)
    check("overflow", "\n".join(heard))
    check("loss-scale-minimum", str(raised.value))


def test_no_gradient():
    import torch

    with pytest.raises(RuntimeError) as raised:
        torch.ones(1).sum().backward()
    check("no-gradient", str(raised.value))


def test_recomputed_metadata():
    import torch
    from torch.utils.checkpoint import checkpoint

    rows = iter((1, 2))
    with pytest.raises(torch.utils.checkpoint.CheckpointError) as raised:
        x = torch.ones(1, requires_grad=True)
        checkpoint(lambda x: (x * torch.ones(next(rows), 1)).sin(), x, use_reentrant=False).sum().backward()
    check("recomputed-metadata", str(raised.value))


def test_scheduler_first():
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.warns(UserWarning) as warned:
        torch.optim.lr_scheduler.StepLR(optimizer, 1).step()
    check("scheduler-first", str(warned[0].message))


def test_old_deepspeed():
    with pytest.raises(ImportError) as raised:
        from torch.distributed.elastic.agent.server.api import log  # noqa: F401
    check("old-deepspeed", str(raised.value))


def test_transformers_deepspeed():
    with pytest.raises(ModuleNotFoundError) as raised:
        import transformers.deepspeed  # noqa: F401
    check("transformers-deepspeed", str(raised.value))


def test_accelerator_cpu(monkeypatch):
    from deepspeed.accelerator import real_accelerator

    said = []
    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setattr(real_accelerator, "ds_accelerator", None)
    monkeypatch.setattr(real_accelerator.accel_logger, "warning", said.append)
    if real_accelerator.get_accelerator().device_name() != "cpu":
        pytest.skip("there is another accelerator here")
    check("accelerator-cpu", said[0])


def test_no_ninja(monkeypatch):
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "is_ninja_available", lambda: False)
    with pytest.raises(RuntimeError) as raised:
        cpp_extension.verify_ninja_availability()
    check("no-ninja", str(raised.value))


def test_building_extension(tmp_path):
    from torch.utils import cpp_extension

    source = tmp_path / "cpu_adam.cpp"
    source.write_text("#error not today\n")
    with pytest.raises(RuntimeError) as raised:
        cpp_extension.load("cpu_adam", [str(source)], build_directory=str(tmp_path))
    check("building-extension", str(raised.value))


def test_op_not_loaded(monkeypatch):
    import torch
    from deepspeed.ops.adam import cpu_adam

    def fail(self, verbose=True):
        raise RuntimeError("Error building extension 'cpu_adam'")

    monkeypatch.setattr(cpu_adam.CPUAdamBuilder, "load", fail)
    with pytest.raises(RuntimeError) as raised:
        cpu_adam.DeepSpeedCPUAdam([torch.nn.Parameter(torch.ones(1))])
    check("op-not-loaded", str(raised.value))


def test_op_file_missing(tmp_path):
    from torch.utils import cpp_extension

    with pytest.raises(ImportError) as raised:
        cpp_extension._import_module_from_library("cpu_adam", str(tmp_path), True)
    check("op-file-missing", str(raised.value))


def test_cuda_library_missing():
    import ctypes

    with pytest.raises(OSError) as raised:
        ctypes.CDLL("libcudart.so.9.0")
    check("cuda-library-missing", str(raised.value))


def test_cuda_mismatch(monkeypatch):
    import torch
    from deepspeed.ops.op_builder import builder

    monkeypatch.setattr(builder, "installed_cuda_version", lambda name="": (11, 8))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(builder.CUDAMismatchException) as raised:
        builder.assert_no_cuda_mismatch("fused_adam")
    check("cuda-mismatch", str(raised.value))


def test_no_nvcc(monkeypatch):
    import torch.utils.cpp_extension
    from deepspeed.ops.op_builder import builder

    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", None)
    with pytest.raises(builder.MissingCUDAException) as raised:
        builder.installed_cuda_version()
    check("no-nvcc", str(raised.value))


def test_no_libaio(monkeypatch, capsys):
    from deepspeed.ops.op_builder.async_io import AsyncIOBuilder

    builder = AsyncIOBuilder()
    monkeypatch.setattr(builder, "has_function", lambda *_, **__: False)
    monkeypatch.setattr(builder, "check_for_libaio_pkg", lambda: False)
    assert not builder.is_compatible(verbose=True)
    check("no-libaio", re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out))


def test_stale_lock(tmp_path):
    from torch.utils.file_baton import FileBaton

    lock = tmp_path / "lock"
    assert FileBaton(str(lock)).try_acquire()
    assert lock.exists() and not FileBaton(str(lock)).try_acquire()  # the second waits as long as the file is there
    assert "torch_extensions" in SYMPTOMS["stale-lock"].fix


def test_damaged_file(tmp_path):
    import torch

    file = tmp_path / "shard.pt"
    torch.save(torch.zeros(1000), file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(RuntimeError) as raised:
        torch.load(file)
    check("damaged-file", str(raised.value))


def test_disk_full():
    import torch

    with pytest.raises(RuntimeError) as raised:
        torch.save(torch.zeros(100_000), "/dev/full")
    check("disk-full", str(raised.value))


def test_host_memory():
    import torch

    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    check("host-memory", str(raised.value))


def test_loader_worker():
    import torch

    class Killed(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, _):
            os._exit(1)

    with pytest.raises(RuntimeError) as raised:
        list(torch.utils.data.DataLoader(Killed(), num_workers=1))
    check("loader-worker", str(raised.value))


# The launcher


@pytest.mark.parametrize("lines", [["node1 slots=8", "node2:8"], ["node1 slots=8"] * 2])
def test_hostfile(lines):
    from deepspeed.launcher.runner import _parse_hostfile

    with pytest.raises(ValueError) as raised:
        _parse_hostfile(lines)
    assert str(raised.value) in SYMPTOMS["hostfile"].text
    assert SYMPTOMS["hostfile"].finds(str(raised.value))


def test_no_slot():
    from deepspeed.launcher.runner import parse_resource_filter

    with pytest.raises(ValueError) as raised:
        parse_resource_filter({"localhost": [0]}, include_str="localhost:0,1")
    check("no-slot", str(raised.value))


def launched(*arguments, hosts=None, **patches):
    """What DeepSpeed's launcher raises when it is asked for something that cannot start."""
    from deepspeed.launcher import runner

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception) as raised:
        for name, value in patches.items():
            patch.setattr(runner, name, value)
        runner.main([*(["--hostfile", str(hosts)] if hosts else []), *arguments, "train.py"])
    return str(raised.value)


@pytest.fixture
def two_hosts(tmp_path, monkeypatch):
    hosts = tmp_path / "hosts"
    hosts.write_text("node1 slots=1\nnode2 slots=1\n")
    monkeypatch.chdir(tmp_path)
    return hosts


def test_not_reachable(two_hosts, monkeypatch):
    def refused(*_, **__):
        raise subprocess.CalledProcessError(255, "ssh")

    monkeypatch.setattr(subprocess, "check_call", refused)
    check("not-reachable", launched(hosts="hosts"))


def test_no_pdsh(two_hosts, monkeypatch):
    monkeypatch.setenv("PATH", str(two_hosts.parent))
    check("no-pdsh", launched("--no_ssh_check", "--master_addr", "node1", hosts="hosts"))


def test_no_gpu_resources(monkeypatch):
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "device_count", lambda: 0)
    check("no-gpu-resources", launched())


def test_devices_ignored(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    launched("--num_gpus", "1", "--include", "localhost:0")  # which it refuses, after it has told
    check("devices-ignored", capsys.readouterr().out)


def test_no_hostfile(monkeypatch):
    from deepspeed.launcher import runner

    said = []
    monkeypatch.setattr(runner.logger, "warning", said.append)
    assert runner.fetch_hostfile("/no/such/file") is None
    check("no-hostfile", said[0])


def test_no_mpi4py():
    from deepspeed.comm.comm import mpi_discovery

    with pytest.raises(ModuleNotFoundError) as raised:  # mpi4py is not in the pinned set
        mpi_discovery()
    check("no-mpi4py", str(raised.value))


def test_port_in_use():
    import torch

    with socket.socket(socket.AF_INET6) as holder:
        holder.bind(("::", 0))
        holder.listen()
        with pytest.raises(torch.distributed.DistNetworkError) as raised:
            torch.distributed.TCPStore("localhost", holder.getsockname()[1], 1, is_master=True)
    check("port-in-use", str(raised.value))


def test_clients_joined():
    import datetime

    import torch

    with pytest.raises(torch.distributed.DistStoreError) as raised:
        torch.distributed.TCPStore("localhost", 0, 2, is_master=True, timeout=datetime.timedelta(seconds=1))
    check("clients-joined", str(raised.value))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on this machine: install the package openssh-client")
def test_ssh_refused():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # and nobody listens
        port = str(holder.getsockname()[1])
        command = ["ssh", "-o", "BatchMode=yes", "-p", port, "127.0.0.1", "true"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr
    check("ssh-refused", told.replace("127.0.0.1", "node2"))


@pytest.fixture(scope="module")
def launchers_said(tmp_path_factory):
    return printed_by("launcher_mistakes", tmp_path_factory.mktemp("launched"))


@pytest.mark.slow
@pytest.mark.parametrize("entry", [name for name, each in SYMPTOMS.items() if each.reproduced == "test_launcher"])
def test_launcher(entry, launchers_said):
    check(entry, re.sub(r"(/[\w-]+)+/\w+\.py", "train.py", launchers_said.replace(sys.executable, "python")))


@pytest.fixture(scope="module")
def ranks_said(tmp_path_factory):
    return printed_by("rank_mistakes", tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
@pytest.mark.parametrize("entry", [name for name, each in SYMPTOMS.items() if each.reproduced == "test_two_ranks"])
def test_two_ranks(entry, ranks_said):
    if entry == "peer-lost":  # which of the two it says is a matter of milliseconds
        quoted, heard = comparable(SYMPTOMS[entry].text), "\n".join(comparable(ranks_said))
        assert any(line.rstrip(".") in heard for line in quoted) and SYMPTOMS[entry].finds(ranks_said)
    else:
        check(entry, ranks_said)


def test_stuck_ranks_sentences():
    """tests/ranks makes them; here it is only compared that they are still the ones."""
    source = "".join((ROOT / "labsupport" / "ranks" / name).read_text() for name in ("notebook.py", "output.py"))
    source += (ROOT / "labsupport" / "launch" / "stacks.py").read_text()
    for words in ("while the others waited", "The ranks wait for each other for ever"):
        assert words in source and words in SYMPTOMS["hang"].text
