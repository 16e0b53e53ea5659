"""Which ops a machine needs, and what an interrupted compilation leaves."""

import dataclasses
import subprocess
import sys

from labsupport import ops
from labsupport.engine import describe_machine


def test_each_machine_compiles_what_it_uses():
    machine = dataclasses.replace(describe_machine(), nvme=True)
    assert ops.needed_ops(machine) == ["ShareMemCommBuilder", "CPUAdamBuilder", "AsyncIOBuilder"]
    machine = dataclasses.replace(machine, nvme=False)
    assert ops.needed_ops(machine) == ["ShareMemCommBuilder", "CPUAdamBuilder"]
    gpu = dataclasses.replace(machine, accelerator="cuda")  # describe_machine has loaded FusedAdam there
    assert ops.needed_ops(gpu) == ["CPUAdamBuilder"]


def test_a_lock_is_removed_only_where_nobody_compiles(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "some_op" / "lock"
    lock.parent.mkdir()
    lock.write_text("")
    monkeypatch.setattr(ops, "_is_being_compiled", lambda folder: folder == lock.parent)
    ops.clear_stale_lock("some_op")
    assert lock.exists()
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    ops.clear_stale_lock("some_op")
    assert not lock.exists() and "interrupted" in capsys.readouterr().out


def test_ninja_at_work_is_seen(tmp_path):
    (tmp_path / "ninja").symlink_to(sys.executable)
    work = tmp_path / "op"
    work.mkdir()
    assert not ops._is_being_compiled(work)
    command = [str(tmp_path / "ninja"), "-c", "import time; print('up', flush=True); time.sleep(60)"]
    busy = subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE)
    try:
        busy.stdout.readline()
        assert ops._is_being_compiled(work)
    finally:
        busy.kill()
        busy.wait()
        busy.stdout.close()
