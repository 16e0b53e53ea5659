"""Ranks that cost a second: each is forked from a process that has imported torch and DeepSpeed already.

    crew = Crew(2, training.train, {"folder": "checkpoints/run", "steps": 20})
    crew.wait_for("training", rank=1)      # until that rank says so
    crew.kill(1)
    crew.end()                             # as a launcher does: the others too
    print(crew.told)                       # what each rank said, also one that is gone

The function runs on every rank with a Teller and its keywords. It stands in a module, because the fork imports it.
"""

import multiprocessing
import os
import signal
import time
import traceback
from multiprocessing.connection import wait

from labsupport.errors import TrainingError
from labsupport.launch.processes import PR_SET_PDEATHSIG, remove_shared_memory, system
from labsupport.machine import free_port

PRELOADED = ("labsupport.faults.preload",)
END_SECONDS = 30


def _forks():
    """The server that ranks are forked from: one for each process, started by the first crew; it ends with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class Teller:
    """A rank's end of the line: what it says is heard even if the rank dies in the next moment."""

    def __init__(self, connection, phase, phases):
        self._connection, self._phase, self._phases = connection, phase, phases

    def say(self, what, **facts):
        """Say that something has happened."""
        self._connection.send((what, facts))

    def enter(self, phase):
        """Say what begins now, in a word of the crew's phases; returns what it was."""
        before, self._phase.value = self._phases[self._phase.value], self._phases.index(phase)
        return before


class Crew:
    """Ranks that run one function; `told`[rank] is the list of (what, facts) that the rank said so far."""

    PHASES = ("starting", "load", "training", "save", "prune", "done")

    def __init__(self, world_size, function, keywords):
        context, self.port = _forks(), free_port()
        self.told = [[] for _ in range(world_size)]
        self.processes, self._connections, self._phases = [], [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            phase = context.Value("b", 0, lock=False)
            environment = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.port, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": 1,
            }  # fmt: skip
            process = context.Process(
                target=_run, args=(function, keywords, environment, theirs, phase, self.PHASES), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self._connections.append(ours)
            self._phases.append(phase)

    def phase(self, rank):
        """Return what a rank says it is doing."""
        return self.PHASES[self._phases[rank].value]

    def listen(self, seconds=0.0):
        """Hear what was said, waiting up to `seconds` for the next word; returns whether there was one."""
        heard = False
        for connection in wait([each for each in self._connections if each is not None], seconds):
            rank = self._connections.index(connection)
            try:
                while connection.poll():
                    self.told[rank].append(connection.recv())
                    heard = True
            except (EOFError, OSError):
                self._connections[rank] = None
        return heard

    def wait_for_end(self, seconds):
        """Wait until every rank has ended, and return whether all did."""
        ends_at = time.monotonic() + seconds
        while any(process.is_alive() for process in self.processes) and time.monotonic() < ends_at:
            self._hear_or_rest()
        self.listen()
        return not any(process.is_alive() for process in self.processes)

    def wait_for(self, holds, seconds=END_SECONDS, rest=0.005):
        """Wait until `holds()`, or until a rank has ended; returns whether it holds.

        rest: seconds between two looks; 0 for what may last a millisecond, which takes a processor of its own.
        """
        ends_at = time.monotonic() + seconds
        while not holds() and time.monotonic() < ends_at and all(process.is_alive() for process in self.processes):
            self._hear_or_rest(rest)
        return holds()

    def _hear_or_rest(self, seconds=0.02):
        if any(self._connections):
            self.listen(seconds)
        else:
            time.sleep(seconds)

    def send(self, rank, signal_number):
        """Send a signal to a rank; one that has ended already is left alone."""
        if self.processes[rank].is_alive():
            os.kill(self.processes[rank].pid, signal_number)

    def kill(self, rank):
        """Kill a rank, as the kernel does where memory is out: it can do nothing more."""
        self.send(rank, signal.SIGKILL)

    def end(self):
        """End all ranks and leave nothing of them behind; returns their exit statuses."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(END_SECONDS)
        self.listen()
        remove_shared_memory(self.port)
        return [process.exitcode for process in self.processes]

    def said(self, rank, what):
        """Return the facts of each time that a rank said `what`."""
        return [facts for word, facts in self.told[rank] if word == what]

    def require_no_error(self):
        """Raise TrainingError with the sentence of a rank that failed by itself."""
        for rank, told in enumerate(self.told):
            for what, facts in told:
                if what == "failed":
                    raise TrainingError(f"Rank {rank} failed: {facts['sentence']}")


def _run(function, keywords, environment, connection, phase, phases):
    system.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # with the server, which ends with who started it
    os.environ.update({name: str(value) for name, value in environment.items()})
    teller = Teller(connection, phase, phases)
    status = 0
    try:
        with open(os.devnull, "w") as nowhere:  # what a rank has to say, it tells
            for output in (1, 2):
                os.dup2(nowhere.fileno(), output)
        function(teller, **keywords)
    except SystemExit as end:
        status = end.code or 0
    except BaseException as error:
        status = getattr(error, "status", 1)
        teller.say(
            "failed", kind=type(error).__name__, sentence=str(error).split("\n")[0], where=traceback.format_exc()
        )
    connection.close()
    os._exit(status)  # a rank whose peer is gone cannot take leave of it
