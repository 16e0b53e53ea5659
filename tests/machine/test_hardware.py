"""What this machine gets: accelerator, precision, optimizer, and why not another."""

import inspect
import logging
import os
from pathlib import Path

import pytest
import torch.utils.cpp_extension

from labsupport.machine import hardware


@pytest.mark.parametrize(("cuda", "words"), [(None, "built without CUDA"), ("13.0", "install the CUDA toolkit 13.0")])
def test_without_a_cuda_compiler_torchs_adam_is_chosen(monkeypatch, cuda, words):
    # Whatever torch and toolkit this machine has: pip brings a torch for CUDA to machines without a GPU too.
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", None)
    hardware._fused_adam_on_cuda.cache_clear()
    fused, reason = hardware.fused_adam("cuda")
    hardware._fused_adam_on_cuda.cache_clear()
    assert not fused and words in reason


@pytest.mark.parametrize(
    ("toolkit", "cuda", "words"),
    [((12, 4), "13.0", "install the CUDA toolkit 13.0"), ((13, 1), "13.0", "set DS_SKIP_CUDA_CHECK=1")],
)
def test_a_toolkit_that_does_not_match_names_the_way_out_that_applies(toolkit, cuda, words):
    sentence = hardware._toolkit_mismatch(toolkit, cuda)
    assert f"nvcc is {toolkit[0]}.{toolkit[1]} and torch was built with CUDA {cuda}" in sentence and words in sentence
    assert ("DS_SKIP_CUDA_CHECK" in sentence) == (toolkit[0] == 13), "another major version cannot be skipped"


def test_a_gpu_that_cannot_be_used_is_told_although_the_processor_is_chosen(monkeypatch, capsys):
    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setattr(hardware, "has_gpu_device", lambda: True)
    monkeypatch.setattr(
        hardware,
        "gpu_obstacle",
        lambda: f"Install a newer driver, {os.environ.get('DS_ACCELERATOR', 'nothing')} chosen.",
    )
    hardware.say_once.cache_clear()
    assert hardware.describe_machine().accelerator == "cpu"
    assert "on the processor. Install a newer driver, nothing chosen." in capsys.readouterr().out
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # the reader's own choice needs no note
    hardware.say_once.cache_clear()
    hardware.describe_machine()
    assert capsys.readouterr().out == ""


def test_a_cuda_compiler_without_a_gpu_costs_the_reader_no_line_in_each_process():
    words = "No CUDA runtime is found, using CUDA_HOME='%s'"
    source = Path(inspect.getsourcefile(torch.utils.cpp_extension)).read_text()
    assert f'logger.warning("{words}"' in source, "torch words it in another way now: look at hardware.py's filter"
    logger = logging.getLogger("torch.utils.cpp_extension")
    kept = [
        text for text in (words, "something else") if logger.filter(logger.makeRecord("", 30, "", 0, text, (), None))
    ]
    assert kept == ["something else"]
