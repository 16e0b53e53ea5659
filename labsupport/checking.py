"""The processes that run a reader's answers, so that no answer can harm the notebook: bounded in time, replaceable.

    python -m labsupport.checking FD RANK        # what `Workers` starts, one for each rank

A worker imports DeepSpeed once, joins a process group with its peers, and then judges one answer after another. An
answer that hangs, exits or crashes takes its workers with it; the next check starts new ones. Ranks here are always
CPU ranks, also beside GPUs, so that an answer is judged alike on every machine.
"""

import builtins
import contextlib
import functools
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

from labsupport.judging import Exercise, Mistaken, NotAttempted, Unusable
from labsupport.launch.processes import descendants, end, remove_shared_memory
from labsupport.wording import first_line

START_SECONDS = 600  # an op that was never compiled on this machine takes up to a minute of it
PEER_SECONDS = 3  # how long the other ranks may take once one has found the answer wrong
MEMORY_BYTES = 8 * 2**30  # of private memory for a worker, more than any exercise needs
MEET = b"meet"  # the job of showing that the group still works
NOT_ATTEMPTED = "Not attempted yet: replace the ... in the cell above, run it, and run this cell again."


class Workers:
    """`ranks` processes in one process group, waiting for answers to judge.

    Raises TrainingError when they do not start.
    """

    def __init__(self, ranks):
        from labsupport.errors import TrainingError
        from labsupport.launch.launcher import importing_this_package, launcher_environment
        from labsupport.machine.probes import free_port

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
        """Return the verdict on a pickled answer as a dict: "passed", "message", "hint", "kind".

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
                    replies[rank] = _received(connection) or _gone()
                    if not replies[rank]["passed"]:
                        deadline = min(deadline, time.monotonic() + PEER_SECONDS)
        except OSError:  # a worker died while it was given the job
            replies.setdefault(0, _gone())
        except BaseException:  # Ctrl-C: nothing is known about the workers any more
            self.stop()
            raise
        wrong = sorted((reply["kind"] != "mistake", rank) for rank, reply in replies.items() if not reply["passed"])
        if len(replies) < self.ranks or not self._are_together(replies):
            self.stop()
        return replies[wrong[0][1]] if wrong else replies[0] if len(replies) == self.ranks else None

    def _are_together(self, replies):
        """Whether the workers can take another answer: none is gone, and none is still within the last one."""
        if any(reply["kind"] == "gone" for reply in replies.values()):
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
    return {"passed": False, "kind": "gone", "message": message, "hint": "Let it come to its end without exit."}


def judged(exercise: Exercise, load_answer):
    """Run an exercise's check on the answer that load_answer() gives, and return the verdict as a dict."""
    try:
        try:
            measured = exercise.check(load_answer())
        except Mistaken as found:
            mistake = exercise.mistakes[found.name]
            message = mistake.message.format(**found.values)
            return {"passed": False, "kind": "mistake", "message": message, "hint": mistake.hint}
    except NotAttempted:
        return {"passed": False, "kind": "not attempted", "message": NOT_ATTEMPTED, "hint": ""}
    except Unusable as problem:
        return {"passed": False, "kind": "unusable", "message": str(problem), "hint": ""}
    except BaseException as error:  # whatever a strange answer brings about in a check is a verdict too
        message = f"This answer could not be judged ({first_line(error)}): compare its kind with what is asked for."
        return {"passed": False, "kind": "unusable", "message": message, "hint": ""}
    message = "\n".join(filter(None, [f"Right: {exercise.target}.", measured]))
    return {"passed": True, "kind": "passed", "message": message, "hint": ""}


def _work(connection, parent):
    """Judge answers until the notebook is gone."""
    leave = functools.partial(_leave, os.environ["MASTER_PORT"], os.environ["TMPDIR"])  # before an answer changes them
    threading.Thread(target=_leave_after, args=(parent, leave), daemon=True).start()
    with contextlib.suppress(ValueError, OSError):  # not every system lets itself be told
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, resource.RLIM_INFINITY))

    import cloudpickle

    from labsupport.exercises import find

    _warm_up()
    before, own = _state(), os.getpid()
    connection.send_bytes(b"true")
    with contextlib.suppress(EOFError, OSError):  # the notebook is gone
        while True:
            job = connection.recv_bytes()
            if job == MEET:
                connection.send_bytes(json.dumps(_is_as_before(before)).encode())
                continue
            payload = connection.recv_bytes()
            verdict = judged(find(job.decode()), lambda payload=payload: cloudpickle.loads(payload))
            if os.getpid() != own:  # the answer has forked, and this is the copy
                os._exit(0)
            connection.send_bytes(json.dumps(verdict).encode())
    leave()


def _warm_up():
    """Load DeepSpeed, join the group, and make two engines, so that no answer is charged for it: some seconds."""
    import deepspeed
    import torch

    from labsupport.config import create_deepspeed_config
    from labsupport.engine import initialize_deepspeed, start_distributed

    start_distributed()
    deepspeed.utils.logger.setLevel("ERROR")
    for stage in (2, 3):  # the first engine at stage 3 exchanges a function of torch's, for good
        config = create_deepspeed_config(stage, precision="fp32", train_batch_size=torch.distributed.get_world_size())
        initialize_deepspeed(torch.nn.Linear(2, 2), config)[0].destroy()


def _state():
    """What an answer could change for the answers after it: settings, environment, handlers, children, functions."""
    import deepspeed
    import psutil
    import torch

    patched = [torch, torch.nn.functional, torch.distributed, torch.nn.Module, torch.nn.Linear, torch.Tensor, deepspeed,
               deepspeed.comm, deepspeed.comm.comm, deepspeed.zero, deepspeed.runtime.config, deepspeed.runtime.engine,
               deepspeed.DeepSpeedEngine, builtins, json, os]  # fmt: skip
    functions = {
        (id(owner), name): value for owner in patched for name, value in vars(owner).items() if callable(value)
    }
    timers = [signal.getitimer(which) for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]
    settings = [torch.is_grad_enabled(), torch.get_default_dtype(), str(torch.get_default_device())]
    handlers = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)]
    modules = [sys.modules.get(name) for name in ("torch", "deepspeed", "labsupport.judging", "labsupport.exercises")]
    return functions, [settings, handlers, timers, modules, dict(os.environ), os.getcwd(), psutil.Process().children()]


def _is_as_before(before):
    """Whether this worker is as it was before the first answer, and a collective still gives what it must."""
    functions, rest = before
    functions_now, rest_now = _state()
    same = all(functions_now.get(key) is value for key, value in functions.items())
    return same and rest == rest_now and _meet()


def _meet():
    """Whether a collective gives what it must: one that an answer left unfinished would spoil it."""
    import torch

    seen = torch.full((3,), float(torch.distributed.get_rank() + 1))
    with contextlib.suppress(RuntimeError):  # a group that the answer has destroyed, or a peer that is gone
        torch.distributed.all_reduce(seen)
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 0
    return bool((seen == ranks * (ranks + 1) / 2).all())


def _leave_after(parent, leave):
    """Wait, beside an answer that may never end, until the notebook is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    leave()


def _leave(port, folder):
    """End this worker and its children, and remove what they leave: nobody else is there to do it."""
    end(descendants(os.getpid()))
    remove_shared_memory(port)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with multiprocessing.connection.Connection(int(sys.argv[1])) as pipe:
        _work(pipe, int(sys.argv[2]))
