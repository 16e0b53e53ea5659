"""The processes that run a reader's answers, so that no answer can harm the notebook: bounded in time, replaceable.

    python -m labsupport.checking FD RANK        # what `Workers` starts, one for each rank

A worker imports DeepSpeed once, joins a process group with its peers, and then judges one answer after another. An
answer that hangs, exits or crashes takes its workers with it; the next check starts new ones. Ranks here are always
CPU ranks, also beside GPUs, so that an answer is judged alike on every machine.
"""

import contextlib
import importlib
import json
import multiprocessing.connection
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from labsupport.judging import Exercise, Mistaken, NotAttempted, Unusable, first_line

START_SECONDS = 600  # an op that was never compiled on this machine takes up to a minute of it
PEER_SECONDS = 3  # how long the other ranks may take once one has found the answer wrong
MEMORY_BYTES = 8 * 2**30  # of private memory for a worker, more than any exercise needs
NOT_ATTEMPTED = "Not attempted yet: replace the ... in the cell above, run it, and run this cell again."


class Workers:
    """`ranks` processes in one process group, waiting for answers to judge.

    Raises TrainingError when they do not start.
    """

    def __init__(self, ranks):
        from labsupport.errors import TrainingError
        from labsupport.launch import launcher_environment
        from labsupport.machine import free_port

        self.ranks, self.port = ranks, free_port()
        self.folder = tempfile.mkdtemp(prefix="deepspeed-exercises-")
        environment = launcher_environment() | {
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
            "TMPDIR": self.folder,
            "TQDM_DISABLE": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")])
            ),
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

    def judge(self, module, exercise_id, payload, seconds):
        """Return the verdict on a pickled answer as a dict: "passed", "message", "hint", "kind".

        Ends the workers when the answer has not ended after `seconds`, and when one rank has ended it and another not.
        """
        job = json.dumps([module, exercise_id]).encode()
        replies, deadline = {}, time.monotonic() + seconds
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
                    replies[rank] = _received(connection) or _gone()
                    if not replies[rank]["passed"]:
                        deadline = min(deadline, time.monotonic() + PEER_SECONDS)
        except OSError:  # a worker died while it was given the job
            replies.setdefault(0, _gone())
        except BaseException:  # Ctrl-C: nothing is known about the workers any more
            self.stop()
            raise
        wrong = sorted((reply["kind"] != "mistake", rank) for rank, reply in replies.items() if not reply["passed"])
        if wrong or len(replies) < self.ranks:
            kinds = {reply["kind"] for reply in replies.values()}
            fit_for_more = kinds <= {"mistake", "not attempted"} or (self.ranks == 1 and "gone" not in kinds)
            if len(wrong) < self.ranks or not fit_for_more:  # a rank may still wait within this answer
                self.stop()
        return replies[wrong[0][1]] if wrong else replies[0] if len(replies) == self.ranks else None

    @property
    def alive(self):
        """Whether the workers can take an answer."""
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    def stop(self):
        """End the workers, with whatever their answers started, and remove what they left; twice is harmless."""
        from labsupport.guard import remove_shared_memory

        for process in self._processes:
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
        command = [sys.executable, "-m", "labsupport.checking", str(theirs.fileno()), str(os.getpid())]
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


def _gone():
    message = "Your answer ended the process that ran it: it exits, or it crashes the interpreter."
    return {"passed": False, "kind": "gone", "message": message, "hint": "Let the function return its result."}


def judged(exercise: Exercise, load_answer):
    """Run an exercise's check on the answer that load_answer() gives, and return the verdict as a dict."""
    try:
        measured = exercise.check(load_answer())
    except NotAttempted:
        return {"passed": False, "kind": "not attempted", "message": NOT_ATTEMPTED, "hint": ""}
    except Mistaken as found:
        mistake = exercise.mistakes[found.name]
        message = mistake.message.format(**found.values) if found.values else mistake.message
        return {"passed": False, "kind": "mistake", "message": message, "hint": mistake.hint}
    except Unusable as problem:
        return {"passed": False, "kind": "unusable", "message": str(problem), "hint": ""}
    except BaseException as error:  # whatever a strange answer brings about in a check is a verdict too
        message = f"This answer could not be judged ({first_line(error)}): compare its kind with what is asked for."
        return {"passed": False, "kind": "unusable", "message": message, "hint": ""}
    message = "\n".join(filter(None, [f"Right: {exercise.target}.", measured]))
    return {"passed": True, "kind": "passed", "message": message, "hint": ""}


def _work(connection, parent):
    """Judge answers until the other end closes."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(ValueError, OSError):  # not every system lets itself be told
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, resource.RLIM_INFINITY))

    import cloudpickle
    import deepspeed
    import torch  # noqa: F401 - loaded before the first answer, so that no answer waits for it

    from labsupport.engine import start_distributed

    start_distributed()
    deepspeed.utils.logger.setLevel("ERROR")
    connection.send_bytes(b"true")
    while True:
        try:
            module, exercise_id = json.loads(connection.recv_bytes())
            payload = connection.recv_bytes()
        except EOFError:
            return
        exercises = importlib.import_module(module).EXERCISES
        exercise = next(each for each in exercises if each.id == exercise_id)
        verdict = judged(exercise, lambda payload=payload: cloudpickle.loads(payload))
        connection.send_bytes(json.dumps(verdict).encode())


def _end_with(parent):
    while os.getppid() == parent:
        time.sleep(1)
    with contextlib.suppress(OSError):
        os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with multiprocessing.connection.Connection(int(sys.argv[1])) as pipe:
        _work(pipe, int(sys.argv[2]))
    os._exit(0)
