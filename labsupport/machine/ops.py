"""Compile the DeepSpeed ops that this machine needs: once, before a lab would stop to do it.

    python -m labsupport.machine.ops

`make ops` runs it, and so do `make book` and `make test`.
"""

import os
import subprocess
import sys
import time

from labsupport.machine.hardware import describe_machine
from labsupport.machine.op_builds import without_stale_locks
from labsupport.wording import first_line

MINUTES = {"ShareMemCommBuilder": 1, "CPUAdamBuilder": 1.5, "AsyncIOBuilder": 5}


def needed_ops(machine):
    """Return the builders, by DeepSpeed's names, of the ops that the labs use on this Machine."""
    ops = ["ShareMemCommBuilder"] if machine.accelerator == "cpu" else []
    ops += ["CPUAdamBuilder"]
    return ops + (["AsyncIOBuilder"] if machine.nvme else [])


def compile_ops():
    """Load each needed op, compiling it where that was not done before; return the names that failed."""
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
        try:
            with without_stale_locks():
                builder.load(verbose=False)
        except Exception as error:  # whatever the compiler or DeepSpeed said, the next op may still work
            failed.append(builder.name)
            print(f"error: {builder.name} did not compile ({first_line(error)}): the compiler's reason stands above.")
        else:
            print(f"{builder.name}: ready after {time.monotonic() - start:.0f} s.", flush=True)
    if not machine.nvme:
        print(f"async_io: skipped, and so are the NVMe parts of the labs. {machine.nvme_reason}")
    return failed


def main():
    """Compile the ops of this machine, and beside GPUs those of processor ranks too; return the exit status."""
    failed = compile_ops()
    if describe_machine().accelerator == "cuda":
        processor = os.environ | {"DS_ACCELERATOR": "cpu"}
        failed += [""] * subprocess.run([sys.executable, "-m", "labsupport.machine.ops"], env=processor).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
