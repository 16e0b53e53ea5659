"""Live DeepSpeed ranks inside a notebook: each is a process of its own, and one cell runs on all of them.

    from labsupport import start_ranks
    ranks = start_ranks(2)          # two processes, one process group

    %%ranks                         # this cell runs on every rank
    print(f"rank {rank} of {world_size}")

The processes are ipyparallel engines. Each sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT and
is then a rank to DeepSpeed like any other.
"""

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time

import psutil

from labsupport.errors import LabError, TrainingError
from labsupport.launch import stacks
from labsupport.launch.processes import descendants, end_with
from labsupport.machine.probes import default_accelerator, free_port, gpu_count
from labsupport.machine.versions import say_what_is_untried
from labsupport.ranks.failure import place, reason, traceback
from labsupport.ranks.output import START_SECONDS, LiveOutput, StartNotice, named, show_traceback

STUCK_SECONDS = 15  # how long ranks may wait for one that has failed, before they are stopped
LOOK_SECONDS = 20, 5  # after how long, and then how often, it is looked where ranks stand that are not done
AGAIN = "What the cells above made on them is gone: choose Run > Run All Above Selected Cell, which starts them again."
_current = None  # the ranks that %%ranks means: a notebook has one set at a time


def start_ranks(count=2, accelerator=None):
    """Start `count` ranks, stop any that an earlier call left, and return them as Ranks.

    accelerator: "cuda" or "cpu"; by default one rank a GPU where there are at least `count` GPUs, and CPU
    ranks over gloo elsewhere. On every rank the names rank, world_size, torch and deepspeed are ready.
    Raises TrainingError when the ranks do not come up, and for more ranks than GPUs.
    """
    global _current
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise LabError(f"start_ranks got {count!r}: give a whole number of ranks of at least 1.")
    if accelerator is None:
        accelerator = default_accelerator(count)
    if accelerator not in ("cuda", "cpu"):
        raise LabError(f"accelerator is {accelerator!r}: choose 'cuda' or 'cpu'.")
    if accelerator == "cuda" and (gpus := gpu_count()) < count:
        raise TrainingError(
            f"{count} ranks need {count} GPUs and this machine shows {gpus}: start fewer, or accelerator='cpu'."
        )
    say_what_is_untried()
    if _current is not None:
        _current.stop()
    notice = StartNotice(count, accelerator)
    _current = Ranks(count, accelerator, on_tick=notice.tick)
    _register_magic()
    notice.final(str(_current))
    return _current


class Ranks:
    """A set of live ranks; made by start_ranks. len(ranks) is how many, str(ranks) says what they run on."""

    def __init__(self, count, accelerator, on_tick=None):
        import ipyparallel

        self.count, self.accelerator = count, accelerator
        self._facts, self._controller = [], []  # of each rank that is up; the process that they are reached by
        self._folder = tempfile.TemporaryDirectory(prefix="deepspeed-lab-ranks-")
        environment = {
            "DS_ACCELERATOR": accelerator,
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
            "TQDM_DISABLE": "1",  # a bar on each rank is noise: the cell itself shows that it is running
        }
        # A profile of its own: the reader's stays as it is, and all that is written goes with the folder.
        self._cluster = ipyparallel.Cluster(n=count, log_level=40, profile_dir=f"{self._folder.name}/profile")
        try:
            with _without_pytests_mark():
                self._cluster.start_cluster_sync()
            self._client = self._cluster.connect_client_sync()
            self._client.wait_for_engines(count, timeout=START_SECONDS, interactive=False)
            controller = self._cluster.controller.pid
            self._controller = [controller]
            environment["MASTER_PORT"] = str(free_port())  # late, so that ipyparallel's own ports cannot take it
            waiting = [
                self._client[number].apply_async(
                    _become_rank, number, environment, os.getpid(), controller, self._folder.name
                )
                for number in range(count)
            ]
            self._facts = self._wait(waiting, "starting", on_tick)
        except BaseException:
            self.stop()
            raise

    def __len__(self):
        return self.count

    def __str__(self):
        if not self.alive:
            return f"{self.count} ranks, stopped."
        ranks = "1 rank" if self.count == 1 else f"{self.count} ranks"
        facts = self._facts[0]
        processes = ", ".join(map(str, self.pids))
        return f"{ranks} up: {facts['device']}, {facts['backend']}, processes {processes}."

    __repr__ = __str__

    @property
    def alive(self):
        """Whether the ranks are running."""
        return self._cluster is not None

    @property
    def precision(self):
        """The 16-bit precision that these ranks compute in: bf16 on the processor, whatever a GPU beside it has."""
        from labsupport.machine.hardware import describe_machine

        return describe_machine().precision if self.accelerator == "cuda" else "bf16"

    @property
    def pids(self):
        """The process ids, in the order of the ranks."""
        return [facts["pid"] for facts in self._facts]

    def run(self, function, *arguments, **named):
        """Call function(...) on every rank at once and return the list of results, in the order of the ranks.

        Raises TrainingError, with the rank's own error, when one fails; ranks that wait for it in a
        collective are stopped, since nothing else can wake them.
        """
        self._require_alive()
        return self._wait(
            [self._client[n].apply_async(function, *arguments, **named) for n in range(self.count)], "running"
        )

    def pull(self, name):
        """Return the value that the variable `name` has on each rank, as a list in the order of the ranks.

        A dict arrives with its keys sorted: ipyparallel sends it so.
        """
        self._require_alive()
        return self._wait([self._client[n].pull(name, block=False) for n in range(self.count)], f"reading {name} from")

    def push(self, **variables):
        """Give every rank these variables."""
        self._require_alive()
        self._wait([self._client[n].push(variables, block=False) for n in range(self.count)], "writing to")

    def execute(self, code):
        """Run the text of a cell on every rank, show what each printed, and raise where a rank raised."""
        self._require_alive()
        calls = [self._client[n].execute(code, silent=False, block=False) for n in range(self.count)]
        show = LiveOutput()
        try:
            self._wait(calls, "running", lambda: show.progress([call.stdout for call in calls]), code)
        finally:
            show.final([call.stdout for call in calls], [call.stderr for call in calls])

    def stop(self):
        """Stop the ranks and their controller, at once; twice is harmless."""
        cluster, self._cluster = self._cluster, None
        if cluster is None:
            return
        # They have nothing to put away, and a busy rank would answer a request after seconds; the controller has files.
        ranks = [psutil.Process(pid) for pid in self.pids if psutil.pid_exists(pid)]
        for process in [*(child for rank in ranks for child in descendants(rank.pid)), *ranks]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for pid in self._controller:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(Exception):
            self._client.close(linger=0)
        threading.Thread(target=_put_away, args=(cluster, self._folder)).start()

    def _require_alive(self):
        if not self.alive:
            raise LabError(f"The ranks are stopped. {AGAIN}")

    def _look(self, calls, before):
        """Return where the ranks stand that are not done; stops all where they wait for each other in vain.

        before: where they stood when they were looked at last: who has moved since then waits for nobody.
        """
        now = self._stacks_of(calls)
        done = [f"rank {n} is done" for n in range(self.count) if n not in now]
        if now == before and stacks.diverged(list(now.values()), finished=bool(done)):
            places = "; ".join(filter(None, [*done, self._places(now)]))
            self.stop()
            raise TrainingError(
                f"The ranks wait for each other for ever: {places}. All were stopped: let every rank make the same "
                f"calls. {AGAIN}"
            )
        return now

    def _stacks_of(self, calls):
        waiting = [n for n, call in enumerate(calls) if not call.ready()]
        return {n: stacks.stack_of(self.pids[n], f"{self._folder.name}/{n}") for n in waiting}

    @staticmethod
    def _places(found):
        return "; ".join(f"rank {n} {stacks.in_words(stack)}" for n, stack in found.items())

    def _wait(self, calls, doing, on_tick=None, code=""):
        """Return the calls' results. code: the text of the cell, where that is what the ranks run."""
        failed_at, look_at, before = None, time.monotonic() + LOOK_SECONDS[0], None
        try:
            while not all(call.ready() for call in calls):
                failed = [n for n, call in enumerate(calls) if call.ready() and not call.successful()]
                failed_at = failed_at or (time.monotonic() if failed else None)
                if failed_at and time.monotonic() - failed_at > STUCK_SECONDS:
                    places = self._places(self._stacks_of(calls)) if doing == "running" else ""
                    self.stop()
                    raise TrainingError(
                        f"{_told(calls, failed, code)}, while the others waited{f' ({places})' if places else ''}, so "
                        f"all ranks were stopped: mend the cell. {AGAIN}"
                    )
                if doing == "running" and time.monotonic() > look_at:
                    before, look_at = self._look(calls, before), time.monotonic() + LOOK_SECONDS[1]
                if on_tick:
                    on_tick()
                time.sleep(0.1)
        except KeyboardInterrupt:
            self.stop()
            raise LabError(f"Interrupted while {doing} the ranks, so they were stopped. {AGAIN}") from None
        failed = [n for n, call in enumerate(calls) if not call.successful()]
        if failed:
            raise TrainingError(f"{_told(calls, failed, code)}.")
        return [call.get() for call in calls]


def _put_away(cluster, folder):
    """Let ipyparallel end what never came up, which takes it a second or more, and remove its files."""
    cluster.log.setLevel(logging.CRITICAL)  # the ranks remove their files too, and one of both comes late
    with contextlib.suppress(Exception):  # whatever is already gone need not be stopped
        cluster.stop_cluster_sync()
    folder.cleanup()


def _told(calls, failed, code):
    """Show the first failed rank's traceback, folded, and return which ranks failed like it, where, and with what."""
    first = calls[failed[0]]
    alike = [n for n in failed if reason(calls[n]) == reason(first)]
    if code:
        show_traceback(alike, traceback(first))
    which = named(alike)
    return f"{which[0].upper()}{which[1:]} failed{place(first, code)}: {reason(first)}"


def _become_rank(rank, environment, kernel_pid, controller_pid, folder):
    """Runs on the engine: take the rank's environment, join the group, and die with the notebook."""
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))

    def leave():
        with contextlib.suppress(ProcessLookupError):
            os.kill(controller_pid, signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)  # another rank does so too
        os._exit(1)

    end_with(kernel_pid, then=leave)
    stacks.leave_stack_on_signal(f"{folder}/{rank}")

    from labsupport.engine import import_ahead, start_distributed

    import_ahead()

    import deepspeed
    import torch
    from IPython import get_ipython

    start_distributed()
    names = {
        "rank": rank,
        "world_size": int(environment["WORLD_SIZE"]),
        "torch": torch,
        "deepspeed": deepspeed,
    }
    get_ipython().push(names)
    on_gpu = environment["DS_ACCELERATOR"] == "cuda"
    return {
        "pid": os.getpid(),
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "backend": torch.distributed.get_backend(),
    }


@contextlib.contextmanager
def _without_pytests_mark():
    """Start the engines as if not under pytest: there ipykernel gives them a stderr without a file descriptor,
    and DeepSpeed's probe for libaio needs one."""
    mark = os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        yield
    finally:
        if mark is not None:
            os.environ["PYTEST_CURRENT_TEST"] = mark


def _register_magic():
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.register_magic_function(_ranks_magic, magic_kind="cell", magic_name="ranks")


def _ranks_magic(_line, cell):
    if _current is None:
        raise LabError("No ranks are up: run the cell with start_ranks first.")
    _current.execute(f"# %%ranks\n{cell}")  # so that the lines have the numbers that the reader sees
