"""The checking processes as the notebook sees them: bounded in time, and replaceable.

worker.py is what runs in each of them. An answer that hangs, exits or crashes takes its workers with it; the next
check starts new ones. Ranks here are always CPU ranks, also beside GPUs, so that an answer is judged alike everywhere.
"""

import contextlib
import json
import multiprocessing.connection
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from labsupport.errors import TrainingError
from labsupport.exercises.exercise import Verdict
from labsupport.launch.launcher import importing_this_package, launcher_environment
from labsupport.launch.processes import descendants, end, remove_shared_memory
from labsupport.machine.probes import free_port

START_SECONDS = 600  # an op that was never compiled on this machine takes up to a minute of it
PEER_SECONDS = 3  # how long the other ranks may take once one has found the answer wrong
MEET = b"meet"  # the job of showing that the group still works
GONE = Verdict(
    False,
    "gone",
    "Your answer ended the process that ran it: it exits, or it crashes the interpreter.",
    "Let it come to its end without exit.",
)
ABORTED = Verdict(  # gloo aborts a process whose message has another size than the peer's
    False,
    "gone",
    "A rank was aborted within a collective: the ranks' messages did not fit each other. Usually one rank left out a "
    "collective that the others called, such as `engine.step` or an all-reduce, and answered their next one in its "
    "place.",
    "What stands under an `if` that not every rank takes?",
)
CAUSES = ("mistake", "gone", "unusable", "not attempted")  # which of several ranks' verdicts is the cause of the others


class Workers:
    """`ranks` processes in one process group, waiting for answers to judge.

    Raises TrainingError when they do not start.
    """

    def __init__(self, ranks):
        self.ranks, self.port = ranks, free_port()
        self.folder = tempfile.mkdtemp(prefix="deepspeed-exercises-")
        environment = importing_this_package(launcher_environment()) | {
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
            "TMPDIR": self.folder,
            "TQDM_DISABLE": "1",
        }
        self._processes, self._connections = [], []
        try:
            for rank in range(ranks):
                self._start(rank, environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            deadline = time.monotonic() + START_SECONDS
            for connection in self._connections:
                if not connection.poll(max(0, deadline - time.monotonic())) or not _received(connection):
                    raise TrainingError(
                        "The checking process did not start: run `make ops`, and look whether `import deepspeed` works."
                    )
        except BaseException:
            self.stop()
            raise

    def judge(self, exercise, payload):
        """Return the Verdict on a pickled answer.

        Returns None for an answer that does not end in the exercise's time. The workers are ended then, and when one
        rank has ended the answer and another has not.
        """
        job = exercise.id.encode()
        replies, deadline = {}, time.monotonic() + exercise.seconds
        try:
            for connection in self._connections:
                connection.send_bytes(job)
                connection.send_bytes(payload)
            while len(replies) < self.ranks:
                waiting = [c for rank, c in enumerate(self._connections) if rank not in replies]
                ready = multiprocessing.connection.wait(waiting, timeout=max(0, deadline - time.monotonic()))
                if not ready:
                    break
                for connection in ready:
                    rank = self._connections.index(connection)
                    reply = _received(connection)
                    replies[rank] = Verdict(**reply) if reply else self._gone(rank)
                    if not replies[rank].passed:
                        deadline = min(deadline, time.monotonic() + PEER_SECONDS)
        except OSError:  # a worker died while it was given the job
            replies.setdefault(0, self._gone(0))
        except BaseException:  # Ctrl-C: nothing is known about the workers any more
            self.stop()
            raise
        wrong = sorted((CAUSES.index(reply.kind), rank) for rank, reply in replies.items() if not reply.passed)
        if len(replies) < self.ranks or not self._are_together(replies):
            self.stop()
        return replies[wrong[0][1]] if wrong else replies[0] if len(replies) == self.ranks else None

    def _gone(self, rank):
        """The verdict on an answer that has ended its worker, by how that ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._processes[rank].wait(timeout=1) == -signal.SIGABRT and self.ranks > 1:
                return ABORTED
        return GONE

    def _are_together(self, replies):
        """Whether the workers can take another answer: none is gone, and none is still within the last one."""
        if any(reply.kind == "gone" for reply in replies.values()):
            return False
        deadline = time.monotonic() + PEER_SECONDS
        try:
            for connection in self._connections:
                connection.send_bytes(MEET)
        except OSError:
            return False
        return all(c.poll(max(0, deadline - time.monotonic())) and _received(c) for c in self._connections)

    @property
    def alive(self):
        """Whether the workers can take an answer."""
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    def stop(self):
        """End the workers, with whatever their answers started, and remove what they left; twice is harmless."""
        for process in self._processes:
            end(descendants(process.pid))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []
        remove_shared_memory(self.port)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, rank, environment):
        ours, theirs = multiprocessing.connection.Pipe()
        command = [sys.executable, "-m", "labsupport.exercises.worker", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.folder,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._processes.append(process)
        self._connections.append(ours)


def _received(connection):
    try:
        return json.loads(connection.recv_bytes())
    except (EOFError, OSError):
        return None
