"""Which ops a machine needs."""

import dataclasses
import subprocess

from labsupport.machine import ops
from labsupport.machine.hardware import describe_machine


def test_each_machine_compiles_what_it_uses():
    machine = dataclasses.replace(describe_machine(), nvme=True)
    assert ops.needed_ops(machine) == ["ShareMemCommBuilder", "CPUAdamBuilder", "AsyncIOBuilder"]
    machine = dataclasses.replace(machine, nvme=False)
    assert ops.needed_ops(machine) == ["ShareMemCommBuilder", "CPUAdamBuilder"]
    gpu = dataclasses.replace(machine, accelerator="cuda")  # describe_machine has loaded FusedAdam there
    assert ops.needed_ops(gpu) == ["CPUAdamBuilder"]


def test_beside_a_gpu_the_processors_ops_are_compiled_too(monkeypatch):
    asked = []

    def run(command, env):
        asked.append(env["DS_ACCELERATOR"])
        return subprocess.CompletedProcess(command, 1)

    gpu = dataclasses.replace(describe_machine(), accelerator="cuda")
    monkeypatch.setattr(ops, "describe_machine", lambda: gpu)
    monkeypatch.setattr(ops, "compile_ops", list)
    monkeypatch.setattr(subprocess, "run", run)
    assert ops.main() == 1 and asked == ["cpu"]
