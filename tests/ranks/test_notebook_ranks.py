"""Live ranks: real processes, real failures, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import rank_work

from labsupport.errors import LabError, TrainingError
from labsupport.ranks.notebook import Ranks, start_ranks

pytestmark = pytest.mark.slow


def test_cpu_ranks_compute_in_bf16_also_beside_a_gpu_without_it(two_ranks, monkeypatch):
    from labsupport.machine import hardware

    class Turing:
        precision = "fp16"

    monkeypatch.setattr(hardware, "describe_machine", Turing)
    assert two_ranks.precision == "bf16"
    monkeypatch.setattr(two_ranks, "accelerator", "cuda")
    assert two_ranks.precision == "fp16"


def test_each_rank_is_a_process_of_one_group(two_ranks):
    answers = two_ranks.run(rank_work.who)
    assert [answer[1:] for answer in answers] == [(0, 2, 3.0), (1, 2, 3.0)]
    assert [answer[0] for answer in answers] == two_ranks.pids
    assert len({os.getpid(), *two_ranks.pids}) == 3
    assert str(two_ranks).startswith("2 ranks up: CPU, gloo")


def test_variables_go_there_and_come_back(two_ranks):
    two_ranks.push(number=20)
    two_ranks.execute("number = number + rank")
    assert two_ranks.pull("number") == [20, 21]


def test_what_the_ranks_print_is_shown_by_rank(two_ranks, capsys):
    two_ranks.execute("print('rank', rank, 'of', world_size)")
    shown = capsys.readouterr().out
    assert "[rank 0] rank 0 of 2" in shown and "[rank 1] rank 1 of 2" in shown


def test_an_error_on_both_ranks_is_raised_and_the_ranks_live_on(two_ranks):
    with pytest.raises(TrainingError, match="Rank 0 failed: ZeroDivisionError"):
        two_ranks.run(rank_work.divide_by_zero)
    assert two_ranks.alive and len(two_ranks.run(rank_work.who)) == 2


def test_ranks_stuck_on_a_failed_one_are_stopped(monkeypatch):
    monkeypatch.setattr("labsupport.ranks.notebook.STUCK_SECONDS", 1)
    ranks = Ranks(2, "cpu")
    processes = [psutil.Process(pid) for pid in ranks.pids]
    with pytest.raises(TrainingError, match=r"Rank 1 failed \(ValueError: boom\) while the others waited"):
        ranks.execute("if rank == 1: raise ValueError('boom')\ntorch.distributed.barrier()")
    assert not ranks.alive
    assert psutil.wait_procs(processes, timeout=20)[1] == []
    with pytest.raises(LabError, match="start_ranks again"):
        ranks.run(rank_work.who)


def test_impossible_ranks_are_refused_in_one_sentence():
    for count in (0, -1, 1.5, True, "two"):
        with pytest.raises(LabError, match="whole number"):
            start_ranks(count)
    with pytest.raises(LabError, match="'tpu'"):
        start_ranks(2, accelerator="tpu")
    with pytest.raises(TrainingError, match="2 ranks need 2 GPUs"):
        start_ranks(2, accelerator="cuda")


def test_a_killed_notebook_leaves_no_rank_behind():
    code = """
import time
from labsupport.ranks.notebook import Ranks
ranks = Ranks(2, "cpu")
print(ranks.pids, flush=True)
time.sleep(600)
"""
    notebook = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    line = next(line for line in notebook.stdout if line.startswith("["))
    family = psutil.Process(notebook.pid).children(recursive=True)
    assert {int(pid) for pid in line.strip("[]\n ").split(",")} <= {process.pid for process in family}
    notebook.send_signal(signal.SIGKILL)
    notebook.wait()
    notebook.stdout.close()
    deadline = time.monotonic() + 40
    while (alive := [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.5)
    assert alive == []
