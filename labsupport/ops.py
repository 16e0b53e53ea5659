"""Compile the DeepSpeed ops that this machine needs: once, before a lab would stop to do it.

    python -m labsupport.ops

`make ops` runs it, and so do `make book` and `make test`.
"""

import contextlib
import sys
import time
from pathlib import Path

import psutil

from labsupport.engine import describe_machine, nvme_is_available, prepare_op_builds

MINUTES = {"ShareMemCommBuilder": 1, "CPUAdamBuilder": 1.5, "AsyncIOBuilder": 5}


def needed_ops(machine):
    """Return the builders, by DeepSpeed's names, of the ops that the labs use on this Machine."""
    ops = ["ShareMemCommBuilder"] if machine.accelerator == "cpu" else []
    ops += ["CPUAdamBuilder"]
    return ops + (["AsyncIOBuilder"] if machine.nvme else [])


def compile_ops():
    """Load each needed op, compiling it where that was not done before; return the names that failed."""
    prepare_op_builds()
    clear_stale_lock("fused_adam")
    machine = describe_machine()
    from deepspeed.accelerator import get_accelerator

    print(f"Machine: {machine}.")
    if machine.accelerator == "cuda":  # describe_machine has compiled it, or found out why not
        print(f"fused_adam: {'ready' if machine.fused_adam else f'not used: {machine.fused_adam_reason}'}.")
    failed = []
    for name in needed_ops(machine):
        builder = get_accelerator().create_op_builder(name)
        print(
            f"{builder.name}: loading; where it must be compiled, that takes up to {MINUTES[name]} minutes "
            "on 2 cores, once ...",
            flush=True,
        )
        start = time.monotonic()
        clear_stale_lock(builder.name)
        try:
            builder.load(verbose=False)
        except Exception as error:  # whatever the compiler or DeepSpeed said, the next op may still work
            failed.append(builder.name)
            print(f"error: {builder.name} did not compile ({_first_line(error)}): the compiler's reason stands above.")
        else:
            print(f"{builder.name}: ready after {time.monotonic() - start:.0f} s.", flush=True)
    if not machine.nvme:
        missing = "the CUDA toolkit is missing" if nvme_is_available() else "libaio is missing (package libaio-dev)"
        print(f"async_io: skipped, because {missing}; the NVMe parts of the labs are skipped too.")
    return failed


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


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    sys.exit(1 if compile_ops() else 0)
