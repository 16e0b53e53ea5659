"""What a machine has and may do, as this process finds it out."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from labsupport.machine import probes as machine

ASK = "from labsupport.machine.probes import locking_obstacle as o; print(o(2**27)); print(o(2**20) == '')"


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root keeps its rights without setpriv")
def test_a_user_who_may_not_lock_the_buffers_is_told_before_deepspeed_aborts():
    command = ["bash", "-c", f"ulimit -l 8192 && exec {sys.executable} -c '{ASK.replace(chr(39), chr(34))}'"]
    if os.geteuid() == 0:  # root locks what it likes, until the capability is gone
        command = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    sentence, small = done.stdout.splitlines()
    assert "would lock 128 MiB" in sentence and "this user may lock 8 MiB" in sentence and small == "True"


def test_a_limit_that_does_not_hold_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (2**23, 2**23))
    monkeypatch.setattr(machine, "_can_lock", lambda count: True)
    assert machine.locking_obstacle(2**40) == ""


def test_a_gpu_that_torch_is_too_new_for_counts_as_none(monkeypatch):
    import torch

    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setattr(machine, "has_gpu_device", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for usable in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda usable=usable: usable)
        assert machine.gpu_count() == int(usable)


def test_the_hosts_memory_is_what_the_container_may_use(monkeypatch):
    whole = machine.host_memory_bytes()
    monkeypatch.setattr(machine.Path, "read_text", lambda path: "max\n")
    assert machine.host_memory_bytes() >= whole
    monkeypatch.setattr(machine.Path, "read_text", lambda path: "1073741824\n")
    assert machine.host_memory_bytes() == 2**30


def test_what_nvidia_smi_says_and_what_it_does_not(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$1" in *driver*) echo 580.1; echo 580.1;; *) echo 900; echo " 500";; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert machine.driver_version() == "580.1" and machine.free_gpu_bytes() == 500 * 2**20
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert machine.driver_version() is None and machine.free_gpu_bytes() is None
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.driver_version() is None


def test_a_folder_that_cannot_be_made_cannot_be_written(tmp_path):
    assert machine.can_write(tmp_path / "a" / "b") and not machine.can_write("/proc/x")
