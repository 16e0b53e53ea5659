"""Run the deepspeed launcher so that it never outlives the notebook that asked for it, whatever happens to either.

    python -m labsupport.guard KERNEL_PID FOLDER PORT COMMAND ...

labsupport.live_training starts it. It ends when the command ends, at SIGTERM, and when the process KERNEL_PID, its
parent, is gone. Before it ends, it ends everything that the command started and removes what those leave behind.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

POLL_SECONDS, GRACE_SECONDS = 0.1, 2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
SHARED_MEMORY = Path("/dev/shm")
system = ctypes.CDLL(None)


def main(arguments):
    """Run the command to its end, or to the end of the kernel, and return its exit status; None for a stopped one."""
    kernel, folder, port, *command = arguments
    asked_to_stop = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.append(True))
    adopt_orphans()
    process = subprocess.Popen(command, preexec_fn=_end_with_the_guard)
    while process.poll() is None and not asked_to_stop and os.getppid() == int(kernel):
        time.sleep(POLL_SECONDS)
    end_family()
    remove_shared_memory(port)
    if os.getppid() != int(kernel):  # nobody else is left to do it
        shutil.rmtree(folder, ignore_errors=True)
    return process.returncode


def adopt_orphans():
    """Let every descendant whose parent is gone become a child of this process, so that `end_family` finds it."""
    system.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_family():
    """End every process that this one has started, and theirs: first by request, then by force."""
    family = psutil.Process().children(recursive=True)
    locks = [path for member in family for path in _compiler_locks(member)]
    _signal(family, signal.SIGTERM)
    force_at = time.monotonic() + GRACE_SECONDS
    while family:
        time.sleep(POLL_SECONDS / 2)
        if time.monotonic() > force_at:
            _signal(family, signal.SIGKILL)
        _reap()
        family = psutil.Process().children(recursive=True)  # a launcher may have started another rank meanwhile
    for lock in locks:
        lock.unlink(missing_ok=True)


def remove_shared_memory(port):
    """Remove the buffers that ranks of this master port left: 65 MiB each, which only a rank that ends well frees.

    The name is that of DeepSpeed 0.19.8, csrc/cpu/comm/shm.cpp. The port was this run's alone.
    """
    for buffer in SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*_{port}_*"):
        buffer.unlink(missing_ok=True)


def _compiler_locks(process):
    """The locks that this process holds while torch compiles an op; left behind, each would stop all later runs."""
    with contextlib.suppress(psutil.Error):
        return [Path(file.path) for file in process.open_files() if Path(file.path).name == "lock"]
    return []


def _signal(family, number):
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(number)


def _reap():
    """Take the exit status of every child that has ended, without which it would stay as a zombie."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end_with_the_guard():
    # Runs in the launcher before it begins. Its ranks follow it: see labsupport.launch.end_with_the_launcher.
    system.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.exit(1 if status is None else abs(status))
