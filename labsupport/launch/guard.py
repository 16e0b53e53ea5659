"""Run the deepspeed launcher so that it never outlives the notebook that asked for it, whatever happens to either.

    python -m labsupport.launch.guard KERNEL_PID FOLDER PORT COMMAND ...

A run beside a kernel and the grading start it. It ends when the command ends, at SIGTERM, and when the process
KERNEL_PID, its parent, is gone. Before it ends, it ends everything that the command started and removes what those
leave behind.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

from labsupport.launch.processes import (
    PR_SET_PDEATHSIG,
    adopt_orphans,
    end_family,
    remove_shared_memory,
    system,
)

POLL_SECONDS = 0.1


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


def _end_with_the_guard():
    # Runs in the launcher before it begins. Its ranks follow it: see processes.end_with_the_launcher.
    system.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.exit(1 if status is None else abs(status))
