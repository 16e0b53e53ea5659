"""What DeepSpeed's compilation of its ops needs around it: ninja, an architecture list, a folder, no stale lock.

    prepare_op_builds("cuda")         # before the first op is loaded
    clear_stale_lock("fused_adam")    # before that op is

ops.py compiles what the labs need beforehand; labsupport.engine comes here for what is compiled on demand.
"""

import contextlib
import os
import re
import sys
from pathlib import Path

import psutil

PROCESSOR_OPS = f"py{sys.version_info.major}{sys.version_info.minor}_processor"


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


def clear_stale_lock(op):
    """Remove the lock that an interrupted compilation of `op` left; torch would wait for it for ever."""
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(op, verbose=False))
    lock = folder / "lock"
    if lock.exists() and not _is_being_compiled(folder):
        lock.unlink(missing_ok=True)
        print(f"{op}: removed the lock that an interrupted compilation left behind.")


def _is_being_compiled(folder):
    """Whether some process works in this folder, as ninja does while it compiles there."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "ninja" and Path(process.cwd()) == folder:
                return True
    return False
