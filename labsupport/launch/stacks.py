"""Where a rank stands that does not come back: which collective it waits in, called from where.

leave_stack_on_signal(path)              # in the rank: its stack goes into that file at each SIGUSR1
stack = stack_of(pid, path)              # from outside, whatever the rank waits for
print(in_words(stack))                   # "waits in all_reduce, called at line 3 of the cell"

with Watch(rank) as watch:               # in a program: a rank tells by itself where it has stood for too long
    watch.step(1)
"""

import faulthandler
import os
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

SLOW_SECONDS = 25  # without a step: then a rank says where it stands
FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$', re.MULTILINE)
COLLECTIVES = "torch/distributed/distributed_c10d.py"
GATHERS = "deepspeed/runtime/zero/partition_parameters.py"  # ZeRO-3's, which are started and then waited for
LIBRARIES = ("-packages/", "/lib/python", "<frozen")  # site-packages or dist-packages, and the standard library
_files = []  # kept open: faulthandler writes into them from a signal handler


class Frame(NamedTuple):
    """A place in a stack; the innermost one comes first."""

    file: str
    line: int
    function: str


def leave_stack_on_signal(path):
    """Let this process write its main thread's stack to a file each time that it gets SIGUSR1, also inside C++."""
    _files.append(open(path, "w"))  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, file=_files[-1], all_threads=True)


def stack_of(pid, path, seconds=2.0):
    """Return the Frames of a process that leaves its stack in `path`; none where it does not answer."""
    path = Path(path)
    before = path.stat().st_size if path.exists() else 0
    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        return ()
    ends_at = time.monotonic() + seconds
    text = ""
    while time.monotonic() < ends_at:
        time.sleep(0.05)
        now = path.read_text()[before:] if path.exists() else ""
        if now and now == text:  # it is written
            break
        text = now
    # The main thread is the one that runs the reader's code, and faulthandler names it last.
    last = re.split(r"^(?:Current thread|Thread) .*$", text, flags=re.MULTILINE)[-1]
    return tuple(Frame(found["file"], int(found["line"]), found["function"]) for found in FRAME.finditer(last))


def collective_of(stack):
    """Return the Frame of the collective that a rank waits in, or None."""
    for frame in stack[:2]:  # between the wait and C++ stands a wrapper of DeepSpeed's
        if frame.function == "wait" and frame.file.endswith(GATHERS):
            return frame._replace(function="an all_gather of ZeRO-3")
    return next((frame for frame in reversed(stack) if frame.file.endswith(COLLECTIVES)), None)


def own_place(stack):
    """Return the innermost Frame that is of no library: the reader's own line, or the course's."""
    return next((frame for frame in stack if not any(part in frame.file for part in LIBRARIES)), None)


def in_words(stack):
    """Return where a rank stands, in a few words."""
    if not stack:
        return "does not say where it stands"
    collective, own = collective_of(stack), own_place(stack)
    doing = f"waits in {collective.function}" if collective else f"is in {stack[0].function}"
    if own is None:
        return doing
    place = "the cell" if "ipykernel" in own.file or own.file.startswith("<") else _short(own.file)
    return f"{doing}, called at line {own.line} of {place}"


def _short(file):
    return "/".join(Path(file).parts[-2:])


def diverged(stacks, finished):
    """Whether ranks wait for each other in vain: all that are left are in collectives, and not all in the same one.

    stacks: of the ranks that are not done. finished: whether another rank is done already.
    """
    waiting = [collective_of(stack) for stack in stacks]
    if not all(waiting):
        return False  # one of them computes: the others may only be early
    return (
        finished or len({(frame.function, own_place(stack)) for frame, stack in zip(waiting, stacks, strict=True)}) > 1
    )


class Watch:
    """Lets a rank say, from a thread of its own, where it stands when a step takes longer than SLOW_SECONDS."""

    def __init__(self, rank, seconds=SLOW_SECONDS, file=None):
        self._rank, self._seconds, self._file = rank, seconds, file or sys.stderr
        self._main, self._ended = threading.get_ident(), threading.Event()
        self.step(0)
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def step(self, number):
        """Say that a step is done."""
        self._step, self._since, self._told = number, time.monotonic(), False

    def _look(self):
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            if self._told or time.monotonic() - self._since < self._seconds:
                continue
            self._told = True
            frames = traceback.extract_stack(sys._current_frames()[self._main])
            stack = tuple(Frame(each.filename, each.lineno, each.name) for each in reversed(frames))
            lines = "".join(f"\n    {_short(each.file)}:{each.line} {each.function}" for each in stack[:12])
            print(  # on a line of its own, below a bar that is open
                f"\n[rank {self._rank}] Step {self._step + 1} has taken {self._seconds:g} s so far: this rank "
                f"{in_words(stack)}. Where every rank waits in a collective, and not in the same one, they wait "
                f"for ever.{lines}",
                file=self._file,
                flush=True,
            )
