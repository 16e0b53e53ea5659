"""Start a process and end it with everything that it started, whoever ends first: nothing is left behind.

status, lines = run_to_the_end(command, environment)      # to the end, a time-out or Ctrl-C
stop(process)                                             # one that was started, and all its descendants
end_family()                                              # all that this process started, detached ones too
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
SHARED_MEMORY = Path("/dev/shm")
STOP_SECONDS = 5  # for a launcher, which ends its ranks itself when it is asked to
GRACE_SECONDS = 2
SAVE_SECONDS = 30  # DeepSpeed's launcher gives a rank as long
system = ctypes.CDLL(None)


def run_to_the_end(command, environment, on_line=None, timeout_seconds=None):
    """Run a command in a process group of its own and return (exit status, lines that it printed).

    On a time-out (status None), an interrupt or any error the whole group is stopped before this returns.
    """
    process = start(command, environment)
    lines, stopped = [], []

    def stop_late():
        stopped.append(True)
        stop(process)

    alarm = threading.Timer(timeout_seconds, stop_late) if timeout_seconds else None
    if alarm:
        alarm.start()
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if on_line is not None:
                on_line(lines[-1])
        status = process.wait()
    finally:
        if alarm:
            alarm.cancel()
        stop(process)
        process.stdout.close()
    return (None if stopped else status), lines


def start(command, environment):
    """Start a command in a process group of its own; what it prints comes line by line from its stdout."""
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def stop(process):
    """Stop a process and everything that it started: first by request, then by force; twice is harmless."""
    # The launcher starts each rank in a group of its own, so name the descendants, not the group.
    end([*descendants(process.pid), *_alive(process.pid)], STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def adopt_orphans():
    """Let every descendant whose parent is gone become a child of this process, so that `end_family` finds it."""
    system.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_family():
    """End every process that this one has started, and theirs: first by request, then by force."""
    while family := descendants(os.getpid()):  # a launcher may have started another rank meanwhile
        locks = [path for member in family for path in _compiler_locks(member)]
        end(family, GRACE_SECONDS)
        for lock in locks:
            lock.unlink(missing_ok=True)


def end(family, grace_seconds=0):
    """End these processes, by request, and those that are left after grace_seconds by force."""
    for ask in (psutil.Process.terminate, psutil.Process.kill) if grace_seconds else (psutil.Process.kill,):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(member)
        _, family = psutil.wait_procs(family, timeout=grace_seconds or GRACE_SECONDS)


def descendants(pid):
    """Return every process that descends from `pid`, in whatever session it is; none where `pid` is gone."""
    return [child for process in _alive(pid) for child in process.children(recursive=True)]


def remove_shared_memory(port):
    """Remove the buffers that ranks of this master port left: 65 MiB each, which only a rank that ends well frees.

    The name is that of DeepSpeed 0.19.8, csrc/cpu/comm/shm.cpp. The port was this run's alone.
    """
    for buffer in SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*_{port}_*"):
        buffer.unlink(missing_ok=True)


def end_with(pid, then):
    """Watch, beside whatever this process does, until the process `pid` is gone; then call `then`."""

    def watch():
        while psutil.pid_exists(pid):
            time.sleep(1)
        then()

    threading.Thread(target=watch, daemon=True).start()


def end_with_the_launcher():
    """Let this rank end when the deepspeed launcher that started it is gone, however that went.

    `deepspeed` starts a second process, which starts the ranks. When only the first one is interrupted or
    killed, DeepSpeed 0.19.8 leaves the second and the ranks running.
    """
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process().parent()
        if parent is None or "deepspeed.launcher.launch" not in parent.cmdline():
            return
        starter = parent.ppid()

        def watch():
            with contextlib.suppress(psutil.Error):
                while parent.is_running() and parent.ppid() == starter:
                    time.sleep(1)
                parent.terminate()
            # The launcher tells one rank after the other and waits for each: this one, which may want to save first.
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(SAVE_SECONDS)
            os._exit(130)

        threading.Thread(target=watch, daemon=True).start()


def _alive(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid)]
    return []


def _compiler_locks(process):
    """The locks that this process holds while torch compiles an op; left behind, each would stop all later runs."""
    with contextlib.suppress(psutil.Error):
        return [Path(file.path) for file in process.open_files() if Path(file.path).name == "lock"]
    return []
