"""Two "nodes" on one machine: two launchers that know of each other by a hostfile, as on two machines."""

import json
import queue
import tempfile
import threading
import time
from pathlib import Path

from labsupport.errors import TrainingError
from labsupport.launch.launcher import (
    PROGRAM,
    failure,
    launcher_command,
    launcher_environment,
)
from labsupport.launch.processes import start, stop


def run_two_nodes(arguments, on_line=None, timeout_seconds=1800):
    """Run the program on two "nodes", both on this machine, one CPU rank each; return its JSON result.

    Each node has a launcher of its own, started with --no_ssh and its --node_rank, as one would type it on
    two machines. The ranks are CPU ranks, because each node would take the same first GPU. on_line: called
    with (node, line). Raises TrainingError, with the sentence of the node that failed, and stops the other.
    """
    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        hostfile, result = Path(folder, "hostfile"), Path(folder, "result.json")
        hostfile.write_text("node0 slots=1\nnode1 slots=1\n")
        launcher = [*launcher_command(hostfile=hostfile), "--no_ssh", "--master_addr", "127.0.0.1", "--node_rank"]
        program = [str(PROGRAM), *map(str, arguments), "--json", str(result)]
        environment = launcher_environment(inherit_gpus=False) | {"DS_ACCELERATOR": "cpu"}
        nodes, readers, lines, printed = [], [], ([], []), queue.SimpleQueue()

        def read(node):
            for line in nodes[node].stdout:
                printed.put((node, line.rstrip("\n")))

        def show():
            while not printed.empty():
                node, line = printed.get()
                lines[node].append(line)
                if on_line is not None:
                    on_line(node, line)

        ends_at = time.monotonic() + timeout_seconds
        try:
            for node in (0, 1):
                nodes.append(start([*launcher, str(node), *program], environment))
                readers.append(threading.Thread(target=read, args=(node,), daemon=True))
                readers[-1].start()
            while None in (statuses := [node.poll() for node in nodes]) and not any(statuses):
                if time.monotonic() > ends_at:
                    break
                show()
                time.sleep(0.1)
        finally:
            for node in nodes:
                stop(node)
            for reader in readers:  # with the processes gone, each soon reads its last line
                reader.join()
            for node in nodes:
                node.stdout.close()
        show()
        failed = next((node for node, status in enumerate(statuses) if status), 0)
        if any(statuses) or not result.exists():
            raise TrainingError(failure(lines[failed], statuses[failed], timeout_seconds))
        return json.loads(result.read_text())
