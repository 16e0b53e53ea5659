"""A hostfile: which hosts take part, with how many ranks each; read as DeepSpeed reads it, and handed over to it."""

import os
import re
import socket
from pathlib import Path

from labsupport.errors import LabError
from labsupport.launch.launcher import PROGRAM, launcher_command, launcher_environment
from labsupport.launch.processes import run_to_the_end


def hand_over_to_launcher(hostfile, arguments):
    """Start the deepspeed launcher over the hostfile, with these arguments less --hostfile itself."""
    hosts = check_hostfile(hostfile)
    if int(os.environ.get("RANK", "0")) != 0:
        return 0  # the first rank hands over for all
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--hostfile":
            skip = True
        elif not argument.startswith(("--hostfile=", "--local_rank=")):
            kept.append(argument)
    launcher = launcher_command(hostfile=hostfile)
    if set(hosts) <= {"localhost", "127.0.0.1", socket.gethostname()}:
        # DeepSpeed asks ssh for this machine's own address too, and fails where no ssh server runs.
        launcher += ["--no_ssh_check", "--master_addr", "127.0.0.1"]
    command = [*launcher, str(PROGRAM), *kept]
    print(f"Handing over: deepspeed --hostfile {hostfile} {PROGRAM.name} {' '.join(kept)}", flush=True)
    status, _ = run_to_the_end(command, launcher_environment(), on_line=lambda line: print(line, flush=True))
    return status


def check_hostfile(path):
    """Return {host: slots} of a hostfile; raises LabError, with the line, for what DeepSpeed cannot read.

    DeepSpeed itself goes on alone when the file is missing.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise LabError(
            f"Cannot read the hostfile {path}: {error.strerror.lower()}; DeepSpeed would train on this machine alone."
        ) from None
    hosts = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)", text)
        if not match:
            raise LabError(
                f"Line {number} of {path} is {line.strip()!r}: write a host and its GPUs, like `node1 slots=8`."
            )
        if match[1] in hosts:
            raise LabError(f"Line {number} of {path} names the host {match[1]} again: give each host one line.")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise LabError(f"The hostfile {path} names no host: write one line a host, like `node1 slots=8`.")
    return hosts
