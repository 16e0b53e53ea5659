"""What DeepSpeed's compilation of its ops needs around it: ninja, an architecture list, a folder, no stale lock.

    prepare_op_builds("cuda")         # before the first op is loaded
    with without_stale_locks():       # around what loads one

ops.py compiles what the labs need beforehand; labsupport.engine comes here for what is compiled on demand.
"""

import contextlib
import os
import re
import sys
import threading
import time
from pathlib import Path

import psutil

PROCESSOR_OPS = f"py{sys.version_info.major}{sys.version_info.minor}_processor"
YOUNG_SECONDS = 5
LOOK_SECONDS = 2


def prepare_op_builds(accelerator):
    """Set this process's environment so that DeepSpeed compiles its ops as it should; twice is harmless.

    accelerator: DeepSpeed's name of it. This interpreter's folder comes first on the PATH, for the ninja that came
    with it: another one reads the build log differently and compiles every op again, for minutes.
    TORCH_CUDA_ARCH_LIST loses the letters of names such as 9.0a, which DeepSpeed 0.19.8 takes for a number and fails
    (ops/op_builder/builder.py, compute_capability_args). With a torch for CUDA, the ops of processor ranks get a folder
    of their own: they have the names of the GPU's and other flags, so that each would compile the other's again.
    """
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, get_default_build_root

    folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
        os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", os.defpath)
    if architectures := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        os.environ["TORCH_CUDA_ARCH_LIST"] = re.sub(r"(\d\.\d)[a-z]", r"\1", architectures)
    if accelerator == "cuda" and CUDA_HOME is not None:
        # async_io links libcuda, which a container may have where no linker looks; the toolkit brings a stand-in.
        stubs, known = str(Path(CUDA_HOME, "lib64", "stubs")), os.environ.get("LIBRARY_PATH", "")
        if stubs not in known.split(os.pathsep):
            os.environ["LIBRARY_PATH"] = os.pathsep.join(filter(None, [known, stubs]))
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root = root.parent if root.name == PROCESSOR_OPS else root  # a parent with processor ranks has set it
    if torch.version.cuda is not None and accelerator == "cpu":
        os.environ["TORCH_EXTENSIONS_DIR"] = str(root / PROCESSOR_OPS)
    elif root == Path(get_default_build_root()):
        os.environ.pop("TORCH_EXTENSIONS_DIR", None)
    else:
        os.environ["TORCH_EXTENSIONS_DIR"] = str(root)


@contextlib.contextmanager
def without_stale_locks():
    """While it lasts, remove each lock of an op whose holder is gone, also of one that is killed meanwhile.

    Loading an op takes its lock for a moment even where it is compiled, and a process that is killed in that moment
    leaves it: every later one would wait for ever.
    """
    ended = threading.Event()

    def look():
        while not ended.wait(LOOK_SECONDS):
            clear_stale_locks()

    clear_stale_locks()
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def clear_stale_locks():
    """Remove the locks that interrupted compilations of ops left; torch would wait for each of them for ever.

    Who compiles an op keeps its lock open (torch/utils/file_baton.py), so one that nobody has open is left over.
    """
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in [*root.glob("*/lock"), *root.glob("*/*/lock")]:
        # A younger one may be another's that opened it after its turn in the list of processes had passed.
        if _age_seconds(lock) > YOUNG_SECONDS and not _is_open(lock):
            lock.unlink(missing_ok=True)
            print(f"{lock.parent.name}: removed the lock that an interrupted compilation left behind.")


def _age_seconds(path):
    try:
        return abs(time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0


def _is_open(path):
    real = os.path.realpath(path)  # as the system names an open file, also where the cache is a link
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(file.path == real for file in process.open_files()):
                return True
    return False
