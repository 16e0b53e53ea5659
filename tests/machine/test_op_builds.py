"""What surrounds the compilation of an op: locks, folders, architectures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import get_default_build_root
from torch.utils.file_baton import FileBaton

from labsupport.machine import op_builds
from labsupport.machine.op_builds import PROCESSOR_OPS, prepare_op_builds


@pytest.fixture
def lock(monkeypatch, tmp_path):
    """The lock of an op that is being compiled, or was until somebody killed the compilation."""
    (tmp_path / "drive").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "drive")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    path = tmp_path / "cache" / "some_op" / "lock"
    path.parent.mkdir()
    path.touch()
    os.utime(path, (0, 0))
    return path


def test_a_lock_that_nobody_holds_is_removed(lock, capsys):
    op_builds.clear_stale_locks()
    assert not lock.exists() and "some_op: removed the lock" in capsys.readouterr().out


def test_a_lock_that_somebody_holds_stays(lock):
    holds = "import sys, time; file = open(sys.argv[1]); print('up', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", holds, str(lock)], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        op_builds.clear_stale_locks()
        assert lock.exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    op_builds.clear_stale_locks()
    assert not lock.exists()


def test_a_lock_whose_holder_is_killed_meanwhile_is_removed_too(lock, monkeypatch):
    """As it is where a rank is killed in the moment in which it loads an op: torch waits until the lock is gone."""
    monkeypatch.setattr(op_builds, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(op_builds, "YOUNG_SECONDS", 1)
    os.utime(lock)
    with op_builds.without_stale_locks():
        assert lock.exists(), "too young: it may be another's that is about to open it"
        FileBaton(str(lock), wait_seconds=0.05).wait()


def test_a_lock_that_was_just_made_stays(lock):
    os.utime(lock)
    op_builds.clear_stale_locks()
    assert lock.exists()


@pytest.fixture
def torch_for_cuda(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    yield monkeypatch
    os.environ.pop("TORCH_EXTENSIONS_DIR", None)


def test_beside_a_gpu_the_processors_ops_have_a_folder_of_their_own(torch_for_cuda):
    prepare_op_builds("cpu")
    prepare_op_builds("cpu")
    assert Path(os.environ["TORCH_EXTENSIONS_DIR"]) == Path(get_default_build_root()) / PROCESSOR_OPS
    prepare_op_builds("cuda")  # in a process that one with processor ranks has started
    assert "TORCH_EXTENSIONS_DIR" not in os.environ


def test_a_folder_that_the_reader_named_is_kept(torch_for_cuda, tmp_path):
    torch_for_cuda.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    prepare_op_builds("cpu")
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(tmp_path / PROCESSOR_OPS)
    prepare_op_builds("cuda")
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(tmp_path)


def test_without_cuda_nothing_is_moved(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    prepare_op_builds("cpu")
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(tmp_path)


@pytest.mark.parametrize(
    ("given", "kept"), [("9.0a", "9.0"), ("8.0;9.0a+PTX", "8.0;9.0+PTX"), ("7.5 12.0f", "7.5 12.0")]
)
def test_names_of_architectures_that_deepspeed_cannot_read_lose_their_letter(monkeypatch, given, kept):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "kept")
    prepare_op_builds("cuda")
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == kept
