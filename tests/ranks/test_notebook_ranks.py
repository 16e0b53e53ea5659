"""Live ranks: real processes, real failures, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import rank_work

from labsupport.errors import LabError, TrainingError
from labsupport.ranks import notebook, output
from labsupport.ranks.notebook import Ranks, start_ranks
from labsupport.ranks.output import named

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
    two_ranks.execute("print('world', world_size)\nif rank: print('and more')")
    assert "[rank 0] world 2\n[rank 1] world 2\n[rank 1] and more" in capsys.readouterr().out


def test_what_ranks_print_alike_is_shown_once(two_ranks, capsys):
    two_ranks.execute("print('world', world_size)")
    assert capsys.readouterr().out == "[ranks 0 and 1] world 2\n"
    assert [named(ranks) for ranks in ([2], [0, 1], [0, 1, 2, 3], [0, 2, 3])] == [
        "rank 2",
        "ranks 0 and 1",
        "ranks 0 to 3",
        "ranks 0, 2 and 3",
    ]


CELLS = {
    "x = 1\nx @ 2\n": "line 2 of the cell, `x @ 2`: TypeError: unsupported",
    "def half(x):\n    return x / 0\n\nhalf(1)": "line 2 of the cell, `return x / 0`: ZeroDivisionError: division",
    "half(1)": "line 1 of the cell, `half(1)`: ZeroDivisionError: division",  # the function is of another cell
    "a = 1\nb = = 2": "line 2 of the cell, `b = = 2`: SyntaxError: invalid syntax",
    "import json\njson.loads('')": "line 2 of the cell, `json.loads('')`: JSONDecodeError",
    "try:\n    1 / 0\nexcept ZeroDivisionError:\n    [][0]": "line 4 of the cell, `[][0]`: IndexError",
    "raise ValueError": "line 1 of the cell, `raise ValueError`: ValueError.",
}


def test_a_failed_cell_names_its_line(two_ranks):
    for code, told in CELLS.items():
        with pytest.raises(TrainingError) as error:
            two_ranks.execute(code)
        assert str(error.value).startswith(f"Ranks 0 and 1 failed in {told}"), code


def test_in_a_notebook_lines_count_from_the_magic_and_the_traceback_is_folded(two_ranks, monkeypatch):
    monkeypatch.setattr(notebook, "_current", two_ranks)
    shown = []
    monkeypatch.setattr(output, "in_notebook", lambda: True)
    monkeypatch.setattr(output.CellOutput, "show", lambda _, plain, rich: shown.append(rich))
    with pytest.raises(TrainingError, match=r"Rank 1 failed in line 3 of the cell, `1 / 0`: Zero"):
        notebook._ranks_magic("", "if rank == 1:\n    1 / 0\n")
    assert shown[-1].startswith("<details><summary>The traceback of rank 1</summary>")
    assert "1 / 0" in shown[-1] and "\x1b" not in shown[-1]


def test_a_start_says_at_once_what_it_waits_for_and_what_came_of_it(monkeypatch):
    shown = []
    monkeypatch.setattr(output.CellOutput, "show", lambda _, plain, rich: shown.append(plain))
    notice = output.StartNotice(4, "cpu")
    assert shown[0].startswith("Starting 4 ranks on the processor: importing torch and DeepSpeed takes")
    monkeypatch.setattr(output, "in_notebook", lambda: True)
    notice.start -= 40
    notice.tick()
    assert "40 s so far" in shown[-1] and "compiles an op" in shown[-1]
    notice.start -= output.START_SECONDS
    with pytest.raises(TrainingError, match="make ops"):
        notice.tick()


def test_a_stop_returns_before_the_reader_notices_and_leaves_nothing():
    """A rank that is busy, and would answer a request to end after its computation alone."""
    ranks = Ranks(2, "cpu")
    folder = Path(ranks._folder.name)
    family = [psutil.Process(pid) for pid in (*ranks.pids, *ranks._controller)]
    for client in ranks._client:
        client.execute("import time\ntime.sleep(60)", block=False)
    start = time.monotonic()
    ranks.stop()
    assert time.monotonic() - start < 1
    assert psutil.wait_procs(family, timeout=20)[1] == []
    wait_until(lambda: not folder.exists())
    ranks.stop()


def wait_until(true, seconds=20):
    ends_at = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends_at
        time.sleep(0.1)


def test_an_error_on_both_ranks_is_raised_and_the_ranks_live_on(two_ranks):
    with pytest.raises(TrainingError, match="Ranks 0 and 1 failed: ZeroDivisionError"):
        two_ranks.run(rank_work.divide_by_zero)
    assert two_ranks.alive and len(two_ranks.run(rank_work.who)) == 2


def test_ranks_stuck_on_a_failed_one_are_stopped(monkeypatch):
    monkeypatch.setattr("labsupport.ranks.notebook.STUCK_SECONDS", 1)
    ranks = Ranks(2, "cpu")
    processes = [psutil.Process(pid) for pid in ranks.pids]
    with pytest.raises(
        TrainingError, match=r"Rank 1 failed in line 1 of the cell, `if .*: ValueError: boom, while the others"
    ):
        ranks.execute("if rank == 1: raise ValueError('boom')\ntorch.distributed.barrier()")
    assert not ranks.alive
    assert psutil.wait_procs(processes, timeout=20)[1] == []
    with pytest.raises(LabError, match="Run All Above"):
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
print("folder:", ranks._folder.name, flush=True)
time.sleep(600)
"""
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    line = next(line for line in kernel.stdout if line.startswith("["))
    folder = Path(next(line for line in kernel.stdout if line.startswith("folder:")).split()[1])
    assert folder.exists()
    family = psutil.Process(kernel.pid).children(recursive=True)
    assert {int(pid) for pid in line.strip("[]\n ").split(",")} <= {process.pid for process in family}
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    kernel.stdout.close()
    deadline = time.monotonic() + 40
    while (alive := [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.5)
    assert alive == []
    wait_until(lambda: not folder.exists())
