"""Every error that book/troubleshooting.md marks as reproduced is made here, and must stand on the page word for word.

An entry is known by the label `(trouble-name)=` above its heading; the tables below map names to quoted texts.
"""

import json
import re
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

PAGE = (ROOT / "book" / "troubleshooting.md").read_text()
MINIMAL = {"train_micro_batch_size_per_gpu": 2, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}

# DeepSpeed's reader of configs, alone: entry -> (config, the error's text).
CONFIG_ENTRIES = {
    "batch-triple": (
        {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1},
        "Check batch related parameters. train_batch_size is not equal to micro_batch_per_gpu * "
        "gradient_acc_step * world_size 8 != 2 * 1 * 1",
    ),
    "micro-batch-zero": (
        {"train_batch_size": 1, "gradient_accumulation_steps": 2},
        "Micro batch size per gpu: 0 has to be greater than 0",
    ),
    "no-batch-size": (
        {"optimizer": MINIMAL["optimizer"]},
        "Either train_batch_size or train_micro_batch_size_per_gpu needs to be provided",
    ),
    "auto": ({**MINIMAL, "train_batch_size": "auto"}, "unsupported operand type(s) for //: 'str' and 'int'"),
    "extra-inputs": (
        {**MINIMAL, "zero_optimization": {"stage": 3, "aio": {}}},
        "Extra inputs are not permitted [type=extra_forbidden, input_value={}, input_type=dict]",
    ),
    "removed-key": (
        {**MINIMAL, "elasticity": {"enabled": False}},
        "Elastic training has been removed; the 'elasticity' configuration block is no longer supported.",
    ),
    "two-precisions": (
        {**MINIMAL, "fp16": {"enabled": True}, "bf16": {"enabled": True}},
        "bfloat16 and fp16 modes cannot be simultaneously enabled",
    ),
    "stage-number": (
        {**MINIMAL, "zero_optimization": {"stage": 4}},
        "Input should be 0, 1, 2, 3 or 3 [type=enum, input_value=4, input_type=int]",
    ),
}

# A running engine: entry -> (its function below, the text). One child process runs them all, as one rank.
ENGINE_ENTRIES = {
    "unknown-optimizer": "OneBitAdam is not a supported DeepSpeed Optimizer",
    "no-optimizer": "zero stage 2 requires an optimizer",
    "untested-optimizer": "You are using an untested ZeRO Optimizer. Please add "
    '<"zero_allow_untested_optimizer": true>',
    "client-optimizer": "You are using ZeRO-Offload with a client provided optimizer "
    "(<class 'torch.optim.adamw.AdamW'>)",
    "direct-backward": "Direct calls to tensor.backward() are not supported in this configuration.",
    "no-sync": "no_sync context manager is incompatible with gradient partitioning logic of ZeRO stage 2",
    "empty-parameter": "'weight' must be 2-D",
    "empty-state-dict": "copying a param with shape torch.Size([4, 4]) from checkpoint, the shape in current model is "
    "torch.Size([0]).",
    "input-dtype": "mat1 and mat2 must have the same dtype, but got Float and BFloat16",
    "world-size": "The checkpoint being loaded used a DP world size of 2 but the current world size is 1. Automatic "
    "adjustment of ZeRO's optimizer state partitioning with a new world size is not currently supported.",
    "no-universal": "latest_universal does not exist",
    "weights-only": "Weights only load failed",
}
# What happens with no error at all, in the same child: entry -> what the function returns.
SILENT_ENTRIES = {
    "no-update": "the weights did not change",
    "module-only": "the initial weights stayed",
    "no-latest": "(None, None)",
    "wrong-tag": "AssertionError with no text",
    "other-stage": "AssertionError with no text",
    "nothing-saved": "False",
}


@pytest.mark.parametrize("entry", CONFIG_ENTRIES)
def test_config_error(entry):
    from deepspeed.runtime.config import DeepSpeedConfig

    config, text = CONFIG_ENTRIES[entry]
    with pytest.raises(Exception, match=re.escape(text)):
        DeepSpeedConfig(config)
    assert text in page_entry(entry)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "ds_config.json",
            "Invalid base64-encoded string: number of data characters (13) cannot be 1 more than a multiple of 4",
        ),
        ("./ds_config.json", "Incorrect padding"),
        ("____", "Expected a string path to an existing deepspeed config, or a dictionary or a valid base64."),
    ],
)
def test_no_config_file(path, text, tmp_path, monkeypatch):
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(text)):
        DeepSpeedConfig(path)
    assert text in page_entry("no-config-file")


@pytest.fixture(scope="module")
def happened():
    """What each engine entry did in the child, as {entry: text}."""
    code = "import json, book.test_troubleshooting as t; print('RESULT ' + json.dumps(t.run_engine_entries()))"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, timeout=300, check=False
    )
    lines = [line for line in child.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, child.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))


@pytest.mark.parametrize("entry", ENGINE_ENTRIES)
def test_engine_error(entry, happened):
    assert ENGINE_ENTRIES[entry] in happened[entry]
    assert ENGINE_ENTRIES[entry] in page_entry(entry)


@pytest.mark.parametrize("entry", SILENT_ENTRIES)
def test_what_happens_without_an_error(entry, happened):
    assert happened[entry] == SILENT_ENTRIES[entry]
    assert page_entry(entry)


def test_no_latest_warns(happened):
    assert "Unable to find latest file at" in happened["no-latest-warning"]
    assert "Unable to find latest file at" in page_entry("no-latest")


def test_fp16_on_a_cpu(happened):
    """Some CPUs do run fp16; DeepSpeed's text is needed only where this one does not."""
    assert happened["fp16-cpu"] in ("", "Type fp16 is not supported on your device.")
    assert "Type fp16 is not supported on your device." in page_entry("fp16-cpu")


def test_no_ninja(monkeypatch):
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "is_ninja_available", lambda: False)
    with pytest.raises(RuntimeError) as raised:
        cpp_extension.verify_ninja_availability()
    assert str(raised.value) in page_entry("no-ninja")


def test_cuda_mismatch(monkeypatch):
    import torch
    from deepspeed.ops.op_builder import builder

    monkeypatch.setattr(builder, "installed_cuda_version", lambda name="": (11, 8))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(builder.CUDAMismatchException) as raised:
        builder.assert_no_cuda_mismatch("fused_adam")
    assert str(raised.value) in page_entry("cuda-mismatch")


def test_no_nvcc(monkeypatch):
    import torch.utils.cpp_extension
    from deepspeed.ops.op_builder import builder

    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", None)
    with pytest.raises(builder.MissingCUDAException) as raised:
        builder.installed_cuda_version()
    assert str(raised.value) in page_entry("no-nvcc")


def test_no_libaio(monkeypatch, capsys):
    from deepspeed.ops.op_builder.async_io import AsyncIOBuilder

    builder = AsyncIOBuilder()
    monkeypatch.setattr(builder, "has_function", lambda *_, **__: False)
    monkeypatch.setattr(builder, "check_for_libaio_pkg", lambda: False)
    assert not builder.is_compatible(verbose=True)
    text = "async_io requires the dev libaio .so object and headers but these were not found."
    assert text in capsys.readouterr().out
    assert text in page_entry("no-libaio")


def test_stale_lock(tmp_path):
    from torch.utils.file_baton import FileBaton

    lock = tmp_path / "lock"
    assert FileBaton(str(lock)).try_acquire()
    assert lock.exists() and not FileBaton(str(lock)).try_acquire()  # the second waits as long as the file is there
    assert "torch_extensions" in page_entry("stale-lock")


@pytest.mark.parametrize(
    ("entry", "lines", "text"),
    [
        (
            "hostfile",
            ["node1 slots=8", "node2:8"],
            "Hostfile contains a bad entry: node2:8, unable to proceed with launching",
        ),
        (
            "hostfile",
            ["node1 slots=8"] * 2,
            "Hostfile contains multiple entries for node1, unable to proceed with launching",
        ),
    ],
)
def test_hostfile(entry, lines, text):
    from deepspeed.launcher.runner import _parse_hostfile

    with pytest.raises(ValueError, match=re.escape(text)):
        _parse_hostfile(lines)
    assert text in page_entry(entry)


def test_no_slot():
    from deepspeed.launcher.runner import parse_resource_filter

    with pytest.raises(ValueError) as raised:
        parse_resource_filter({"localhost": [0]}, include_str="localhost:0,1")
    assert str(raised.value) in page_entry("no-slot")


def test_no_mpi4py():
    from deepspeed.comm.comm import mpi_discovery

    with pytest.raises(ModuleNotFoundError) as raised:  # mpi4py is not in the pinned set
        mpi_discovery()
    assert str(raised.value) in page_entry("no-mpi4py")


def test_port_in_use():
    import torch

    with socket.socket(socket.AF_INET6) as holder:
        holder.bind(("::", 0))
        holder.listen()
        with pytest.raises(torch.distributed.DistNetworkError, match="EADDRINUSE, message: address already in use"):
            torch.distributed.TCPStore("localhost", holder.getsockname()[1], 1, is_master=True)
    assert "EADDRINUSE, message: address already in use" in page_entry("port-in-use")


@pytest.mark.slow
def test_killed_rank(tmp_path):
    from labsupport.launch.launcher import launcher_command, launcher_environment
    from labsupport.launch.processes import run_to_the_end

    script = tmp_path / "killed.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    _, lines = run_to_the_end([*launcher_command(1), str(script)], launcher_environment(), timeout_seconds=120)
    assert any("exits with return code = -9" in line for line in lines)
    assert "exits with return code = -9" in page_entry("killed")


def test_stuck_ranks_sentence():
    source = (ROOT / "labsupport" / "ranks" / "notebook.py").read_text()
    assert "while the others waited for it" in source
    assert "while the others waited for it" in page_entry("hang")


def test_every_entry_of_the_tests_stands_on_the_page_once():
    labels = re.findall(r"^\(trouble-([a-z0-9-]+)\)=$", PAGE, re.MULTILINE)
    assert len(labels) == len(set(labels))
    assert {*CONFIG_ENTRIES, *ENGINE_ENTRIES, *SILENT_ENTRIES} <= set(labels)


def page_entry(name):
    """The page's entry under the label (trouble-name)=, up to the next label or section."""
    found = re.search(rf"^\(trouble-{name}\)=\n### ([\s\S]+?)(?=^\(trouble-|^## |\Z)", PAGE, re.MULTILINE)
    assert found, f"book/troubleshooting.md has no entry (trouble-{name})="
    return found[1]


def run_engine_entries():
    """Runs in the child: do each entry's mistake once and return what happened, as text."""
    import logging
    import tempfile
    import warnings

    warnings.simplefilter("ignore")  # DeepSpeed's own, about torch's coming names; none is the point here
    from deepspeed.utils import logger

    from labsupport.engine import start_distributed

    start_distributed()
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for entry, mistake in _mistakes(folder).items():
            heard.clear()
            try:
                results[entry] = str(mistake())
            except Exception as error:
                results[entry] = str(error) or f"{type(error).__name__} with no text"
            if entry == "no-latest":
                results["no-latest-warning"] = "\n".join(heard)
    return results


def _mistakes(folder):
    """Each entry's mistake as a function; the order matters where one saves what the next loads."""
    import torch

    saved = f"{folder}/saved"

    def save():
        engine = _engine(2)
        engine.backward(engine(torch.ones(1, 4)).sum())
        engine.step()
        engine.save_checkpoint(saved, tag="first")
        _engine(3).save_checkpoint(f"{saved}3", tag="first")

    def direct_backward():
        _engine(0)(torch.ones(1, 4)).sum().backward()

    def no_sync():
        with _engine(2).no_sync():
            pass

    def empty_parameter():
        engine = _engine(3, model=torch.nn.Embedding(4, 4))
        torch.nn.functional.embedding(torch.tensor([1]), engine.module.weight)

    def world_size():
        path = f"{saved}/first/mp_rank_00_model_states.pt"
        state = torch.load(path, weights_only=False)
        torch.save({**state, "dp_world_size": 2}, path)  # as if two ranks had saved it
        _engine(2).load_checkpoint(saved)

    def no_update():
        engine = _engine(2, {"gradient_accumulation_steps": 2})
        before = engine.module.weight.detach().clone()
        for _ in range(2):
            engine.backward(engine(torch.ones(1, 4)).sum())
        engine.step()
        return "the weights did not change" if torch.equal(before, engine.module.weight) else "they changed"

    def module_only():
        import deepspeed

        engine = _engine(3)
        with deepspeed.zero.GatheredParameters([engine.module.weight], modifier_rank=0):
            engine.module.weight.data.fill_(7.0)
            before = engine.module.weight.detach().clone()
        engine.load_checkpoint(f"{saved}3", load_module_only=True)
        with deepspeed.zero.GatheredParameters([engine.module.weight]):
            kept = torch.equal(before, engine.module.weight)
        return "the initial weights stayed" if kept else "the saved weights came"

    sgd = torch.optim.SGD
    return {
        "saving": save,
        "fp16-cpu": lambda: _engine(2, {"fp16": {"enabled": True}}) and "",
        "unknown-optimizer": lambda: _engine(0, {"optimizer": {"type": "OneBitAdam", "params": {"lr": 0.1}}}),
        "no-optimizer": lambda: _engine(2, {"optimizer": None}),
        "untested-optimizer": lambda: _engine(2, own=lambda p: sgd(p, lr=0.1)),
        "client-optimizer": lambda: _engine(2, offload=True, own=lambda p: torch.optim.AdamW(p, lr=0.1)),
        "direct-backward": direct_backward,
        "no-sync": no_sync,
        "empty-parameter": empty_parameter,
        "empty-state-dict": lambda: _engine(3).module.load_state_dict(torch.nn.Linear(4, 4).state_dict()),
        "input-dtype": lambda: _engine(2, {"bf16": {"enabled": True}})(torch.ones(1, 4)),
        "weights-only": lambda: torch.load(f"{saved}/first/zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        "no-universal": lambda: _engine(2, {"checkpoint": {"load_universal": True}}).load_checkpoint(saved),
        "no-latest": lambda: _engine(2).load_checkpoint(f"{folder}/nothing"),
        "wrong-tag": lambda: _engine(2).load_checkpoint(saved, tag="second"),
        "other-stage": lambda: _engine(3).load_checkpoint(saved),
        "module-only": module_only,
        "nothing-saved": lambda: _engine(3).save_16bit_model(f"{folder}/weights"),
        "no-update": no_update,
        "world-size": world_size,
    }


def _engine(stage, settings=None, *, model=None, own=None, offload=False):
    """A small engine at a ZeRO stage; own makes an optimizer from the parameters."""
    import deepspeed
    import torch

    zero = {"stage": stage, "reduce_bucket_size": 1000, "allgather_bucket_size": 1000}
    zero |= {"stage3_param_persistence_threshold": 0} if stage == 3 else {}
    zero |= {"offload_optimizer": {"device": "cpu"}} if offload else {}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": zero,
        **(settings or {}),
    }
    if own or config["optimizer"] is None:
        del config["optimizer"]
    model = model or torch.nn.Linear(4, 4)
    return deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()),
        optimizer=own(model.parameters()) if own else None,
        config=config,
    )[0]
