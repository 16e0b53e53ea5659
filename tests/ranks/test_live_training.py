"""A live run tells what happened and leaves nothing behind: not a process, a folder or a buffer, however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
import pytest

from labsupport import create_deepspeed_config, run_program
from labsupport.launch.launcher import failure
from labsupport.launch.processes import SHARED_MEMORY
from labsupport.memory.planner import plan
from labsupport.memory.roles import ROLES
from labsupport.ranks.live_training import LiveTraining
from labsupport.runs import Run

pytestmark = pytest.mark.slow

STEPS, LENGTH, LONG = 12, 32, 100_000
CONFIG = create_deepspeed_config(3, precision="fp32", world_size=2, micro_batch_size=4, train_batch_size=8, lr=1e-3)
MARK = "LIVE_TRAINING_TEST"


class Follower:
    """Collects the events of a run, and waits for one of them."""

    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)

    def named(self, name):
        return [event for event in self.events if event["event"] == name]

    def wait_for(self, name, count=1, seconds=90):
        wait_until(lambda: len(self.named(name)) >= count or self.named("failed"), seconds)
        assert len(self.named(name)) >= count, self.events


def wait_until(holds, seconds):
    ends_at = time.monotonic() + seconds
    while not holds() and time.monotonic() < ends_at:
        time.sleep(0.05)
    return holds()


def live(follower, steps=LONG, **options):
    run = Run("tiny", CONFIG, world_size=2, sequence_length=LENGTH)
    return LiveTraining(run._replace(**options), steps=steps, on_event=follower)


@pytest.fixture
def left(monkeypatch, tmp_path):
    """A function that returns the processes, folders and buffers of the runs of this test that are still there."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ports = set()

    def look():
        processes = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                    processes.append((process, process.cmdline()))
            except psutil.Error:
                continue
        ports.update(re.findall(r"--master_port[ =](\d+)", " ".join(" ".join(line) for _, line in processes)))
        buffers = [path for port in ports for path in SHARED_MEMORY.glob(f"*_{port}_*")]
        return [process for process, _ in processes], list(tmp_path.glob("deepspeed-live-*")), buffers

    yield look
    for process in look()[0]:
        process.kill()


NOTHING = ([], [], [])


@pytest.fixture(scope="module")
def trained():
    """One run of stage 3 on two ranks to its end: (what it told, its last state)."""
    follower = Follower()
    run = live(follower, STEPS)
    run.start()
    return follower, run.wait(180)


def test_a_run_tells_its_steps_in_order(trained):
    follower, state = trained
    names = [event["event"] for event in follower.events]
    assert state == names[-1] == "ended", follower.events[-1]
    assert names[0] == "starting" and "6 to 12 s" in follower.events[0]["message"]
    assert sorted(names, key=["starting", "step", "measuring", "ended"].index) == names
    steps, result = follower.named("step"), follower.events[-1]["result"]
    assert [step["step"] for step in steps] == sorted({step["step"] for step in steps})
    assert steps[-1]["step"] == steps[-1]["steps"] == STEPS and steps[-1]["seconds_left"] == 0
    assert [loss for step in steps for loss in step["losses"]] == result["losses"] and len(result["losses"]) == STEPS
    assert all(step["loss"] == step["losses"][-1] for step in steps)
    assert result["losses"][-1] < result["losses"][0] and result["final_loss"] < result["initial_loss"]
    assert steps[-1]["samples_per_second"] > 0 and set(steps[-1]["held"]) == set(ROLES)
    assert result["config"]["zero_optimization"] == CONFIG["zero_optimization"]
    assert result["hardware"] and result["versions"]["deepspeed"]


def test_telling_changes_nothing(trained, tmp_path):
    (tmp_path / "ds_config.json").write_text(json.dumps(CONFIG))
    arguments = ["--config", tmp_path / "ds_config.json", "--model", "tiny"]
    silent = run_program([*arguments, "--steps", STEPS, "--sequence-length", LENGTH], 2)
    told = trained[0].events[-1]["result"]
    assert silent["losses"] == pytest.approx(told["losses"], rel=1e-6)
    assert silent["final_loss"] == pytest.approx(told["final_loss"], rel=1e-6)
    assert "times_ddp" in told and silent["collectives"] == told["collectives"]


def test_what_was_measured_is_what_was_predicted(trained):
    """The planner knows nothing of this run but its config; after the evaluation stage 3 still gathers only once."""
    result = trained[0].events[-1]["result"]
    predicted = plan("tiny", CONFIG, world_size=2, sequence_length=LENGTH, accelerator="cpu")
    for role in set(ROLES) - {"other"}:
        assert result["resting"][role] == pytest.approx(predicted.held("at rest").get(role, 0), rel=0.001), role
        assert trained[0].named("step")[-1]["held"][role] == result["resting"][role]
    assert sum(result["peak"].values()) == pytest.approx(predicted.peak_bytes, rel=0.1)
    assert result["peak"]["gathered parameters"] == predicted.held("peak")["gathered parameters"]
    assert result["times_ddp"] == pytest.approx(predicted.times_ddp, abs=0.02)


def test_a_second_start_stops_the_first_and_stop_stops_all(left):
    first, second = Follower(), Follower()
    runs = [live(first), live(second, model="1m")]
    runs[0].stop()
    assert runs[0].state == "idle", "stop before start is harmless"
    runs[0].start()
    first.wait_for("starting", 2)  # the ranks are up
    runs[0].start()
    runs[1].start()
    second.wait_for("step")
    assert (runs[0].state, runs[1].state) == ("stopped", "training")
    assert [event["event"] for event in first.events].count("stopped") == 1
    processes, folders, _ = left()
    ranks = [process for process in processes if any("--local_rank" in word for word in process.cmdline())]
    assert len(ranks) == 2 and len(folders) == 1, "one set of ranks"
    runs[1].stop()
    assert left() == NOTHING
    runs[1].stop()
    assert runs[1].state == "stopped" and second.events[-1] == {"event": "stopped"}


def test_a_killed_rank_is_told_in_a_sentence(left):
    follower = Follower()
    run = live(follower)
    run.start()
    follower.wait_for("step")
    victim = next(p for p in left()[0] if "--local_rank=1" in p.cmdline())
    victim.kill()
    assert run.wait(60) == "failed"
    # By which signal, the launcher knows only if it looks before the rank that is left has ended as well.
    assert "Rank 1 was ended from outside" in follower.events[-1]["message"]
    assert left() == NOTHING


def test_a_rank_that_raises_while_the_other_waits(left, tmp_path, monkeypatch):
    """Rank 1 raises in the middle of training; rank 0 then waits for it in a collective."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '1':\n"
        "    def fail(*_): raise RuntimeError('planted')\n"
        "    signal.signal(signal.SIGUSR1, fail)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    follower = Follower()
    run = live(follower)
    run.start()
    follower.wait_for("step")
    next(p for p in left()[0] if "--local_rank=1" in p.cmdline()).send_signal(signal.SIGUSR1)
    assert run.wait(60) == "failed"
    assert follower.events[-1]["message"] == "A rank failed, which stopped the others: RuntimeError: planted"
    assert "Traceback" in follower.events[-1]["output"]
    assert left() == NOTHING


def test_a_follower_that_raises_ends_the_run(left):
    heard = []

    def raises_once(event):
        heard.append(event)
        if len(heard) == 2:
            raise ValueError("the figure is gone")

    run = live(raises_once)
    run.start()
    assert run.wait(90) == "failed"
    assert heard[-1]["message"] == "The run broke off: ValueError: the figure is gone"
    assert left() == NOTHING


KERNEL = """
import sys, time
from labsupport import create_deepspeed_config
from labsupport.ranks.live_training import LiveTraining
from labsupport.runs import Run
def tell(event): print(event["event"], flush=True)
config = create_deepspeed_config(2, precision="fp32", world_size=2, micro_batch_size=4, train_batch_size=8)
LiveTraining(Run("tiny", config, world_size=2, sequence_length=32), steps=100000, on_event=tell).start()
sys.stdin.readline()
"""


@pytest.mark.parametrize("moment", ["starting", "step"])
def test_a_killed_kernel_takes_all_with_it(left, moment):
    with kernel() as process:
        wait_for_line(process, moment)
        assert wait_until(lambda: len(left()[0]) > 2, 10)
        process.kill()
    assert wait_until(lambda: left() == NOTHING, 10), left()


def test_a_kernel_that_ends_stops_its_run_first(left):
    with kernel() as process:
        wait_for_line(process, "starting")
        assert wait_until(lambda: len(left()[0]) > 2, 10)
        process.communicate("\n", timeout=30)
    assert process.returncode == 0 and left() == NOTHING


def kernel():
    environment = os.environ | {"TMPDIR": tempfile.gettempdir()}
    return subprocess.Popen(
        [sys.executable, "-c", KERNEL], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_line(process, wanted):
    for line in process.stdout:
        if line.strip() == wanted:
            return
    raise AssertionError(f"The kernel never said {wanted!r}.")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["[rank0]: ValueError: deep", "error: Too large: choose less."], "Too large: choose less."),
        (["... exits with return code = -9"], "ended from outside by SIGKILL"),
        (["[rank0]: RuntimeError: [gloo/pair.cc] Connection closed by peer"], "ended from outside, which"),
        (["RuntimeError: [gloo/pair.cc] Connection closed by peer", "ValueError: boom"], "ValueError: boom"),
        (["[rank1]: torch.OutOfMemoryError: no room", "... exits with return code = 1"], "OutOfMemoryError: no room"),
        (
            ["[rank 1] Step 3 has taken 25 s", "error: Rank 1 (process 7) is gone, and", "exits with return code = -9"],
            'Rank 1 was ended from outside by SIGKILL (its last line was "Step 3 has taken 25 s"), which stopped',
        ),
        (["error: Rank 1 (process 7) is gone, and", "error: Too large."], "Too large."),
        (["nothing of use", ""], 'ended with status 3 and gave no reason; its last line was "nothing of use"'),
        ([], "ended with status 3 and gave no reason: run it again"),
    ],
)
def test_a_failure_is_one_sentence(lines, words):
    assert words in failure(lines, 3) and "\n" not in failure(lines, 3)


def test_a_lock_of_the_compiler_goes_with_its_holder(tmp_path):
    """A rank that is stopped while an op is compiled would leave a lock for which every later run waits."""
    lock = Path(tmp_path, "lock")
    hold = f"import os, time; os.open({str(lock)!r}, os.O_CREAT | os.O_EXCL); time.sleep(100)"
    guard = [
        sys.executable,
        "-m",
        "labsupport.launch.guard",
        str(os.getpid()),
        str(tmp_path),
        "0",
        sys.executable,
        "-c",
        hold,
    ]
    process = subprocess.Popen(guard)
    assert wait_until(lock.exists, 20)
    process.terminate()
    process.wait(20)
    assert not lock.exists() and tmp_path.exists()
