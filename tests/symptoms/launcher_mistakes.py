"""Scripts that end badly under the launchers of DeepSpeed and torch: one process for all, run by test_reproduced.py.

python -m symptoms.launcher_mistakes FOLDER      # in tests/; prints what a reader would see
"""

import contextlib
import resource
import sys
from pathlib import Path

SCRIPTS = {
    "argument.py": "import argparse\nargparse.ArgumentParser().parse_args()\n",
    "killed.py": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "segmentation.py": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "bus.py": "import os, signal\nos.kill(os.getpid(), signal.SIGBUS)\n",
    "error.py": "raise ValueError('of my own')\n",
}


def main(folder):
    """Start each script as one rank, with DeepSpeed's launcher, and the last one with torchrun too."""
    from deepspeed.launcher import launch
    from deepspeed.launcher.runner import encode_world_info
    from torch.distributed import run

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, code in SCRIPTS.items():
        script = Path(folder, name)
        script.write_text(code)
        world = f"--world_info={encode_world_info({'localhost': [0]})}"
        sys.argv = ["launch", world, "--master_addr=127.0.0.1", "--master_port=29511", str(script)]
        with contextlib.suppress(SystemExit):
            launch.main()
    try:
        run.main(["--standalone", "--nproc-per-node=1", str(script)])
    except Exception as error:
        print(f"{type(error).__module__}.{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
