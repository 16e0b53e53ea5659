"""Start the program on real ranks, here or on several nodes, see it through, and leave no process behind."""

from labsupport.launch.hostfile import check_hostfile
from labsupport.launch.launcher import launcher_command, launcher_environment, run_program, run_under_torchrun
from labsupport.launch.two_nodes import run_two_nodes

__all__ = [
    "check_hostfile",
    "launcher_command",
    "launcher_environment",
    "run_program",
    "run_two_nodes",
    "run_under_torchrun",
]
