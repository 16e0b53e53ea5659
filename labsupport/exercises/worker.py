"""One checking process: a rank that judges one answer after another, so that no answer can harm the notebook.

    python -m labsupport.exercises.worker FD PARENT        # what `Workers` starts, one for each rank

It imports DeepSpeed once, joins a process group with its peers, and says after each answer whether it is as before.
"""

import builtins
import contextlib
import dataclasses
import functools
import gc
import json
import multiprocessing.connection
import os
import resource
import shutil
import signal
import sys
import threading
import time

from labsupport.exercises.exercise import NOT_YET_ATTEMPTED, Mistaken, NotAttempted, Unusable, Verdict
from labsupport.exercises.workers import MEET
from labsupport.launch.processes import descendants, end, remove_shared_memory
from labsupport.wording import first_line

MEMORY_BYTES = 8 * 2**30  # of private memory for a worker, more than any exercise needs


def judged(exercise, load_answer):
    """Run an exercise's check on the answer that load_answer() gives, and return the Verdict."""
    try:
        try:
            measured = exercise.check(load_answer())
        except Mistaken as found:
            mistake = exercise.mistakes[found.name]
            message = mistake.message.format(**found.values)
            return Verdict(False, "mistake", message, mistake.hint)
    except NotAttempted:
        return NOT_YET_ATTEMPTED
    except Unusable as problem:
        return Verdict(False, "unusable", str(problem))
    except BaseException as error:  # whatever a strange answer brings about in a check is a verdict too
        message = f"This answer could not be judged ({first_line(error)}): compare its kind with what is asked for."
        return Verdict(False, "unusable", message)
    return Verdict(True, "passed", f"Right. {measured}" if measured else f"Right: {exercise.target}.")


def _work(connection, parent):
    """Judge answers until the notebook is gone."""
    leave = functools.partial(_leave, os.environ["MASTER_PORT"], os.environ["TMPDIR"])  # before an answer changes them
    threading.Thread(target=_leave_after, args=(parent, leave), daemon=True).start()
    with contextlib.suppress(ValueError, OSError):  # not every system lets itself be told
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, resource.RLIM_INFINITY))

    import cloudpickle

    from labsupport.exercises.catalog import find

    _warm_up()
    before, own = _state(), os.getpid()
    connection.send_bytes(b"true")
    with contextlib.suppress(EOFError, OSError):  # the notebook is gone
        while True:
            job = connection.recv_bytes()
            if job == MEET:
                connection.send_bytes(json.dumps(_is_as_before(before)).encode())
                continue
            payload = connection.recv_bytes()
            verdict = judged(find(job.decode()), lambda payload=payload: cloudpickle.loads(payload))
            if os.getpid() != own:  # the answer has forked, and this is the copy
                os._exit(0)
            connection.send_bytes(json.dumps(dataclasses.asdict(verdict)).encode())
    leave()


def _warm_up():
    """Load DeepSpeed, join the group, and make two engines, so that no answer is charged for it: some seconds."""
    import deepspeed
    import torch

    from labsupport.config import create_deepspeed_config
    from labsupport.engine import initialize_deepspeed, start_distributed

    start_distributed()
    deepspeed.utils.logger.setLevel("ERROR")
    for stage in (2, 3):  # the first engine at stage 3 exchanges a function of torch's, for good
        config = create_deepspeed_config(stage, precision="fp32", train_batch_size=torch.distributed.get_world_size())
        initialize_deepspeed(torch.nn.Linear(2, 2), config)[0].destroy()
    gc.freeze()  # an engine at stage 3 collects garbage a dozen times: without all that was imported by now


def _state():
    """What an answer could change for the answers after it: settings, environment, handlers, children, functions."""
    import deepspeed
    import psutil
    import torch

    from labsupport import exercises
    from labsupport.exercises import answers
    from labsupport.exercises import exercise as definition

    patched = [torch, torch.nn.functional, torch.distributed, torch.nn.Module, torch.nn.Linear, torch.Tensor, deepspeed,
               deepspeed.comm, deepspeed.comm.comm, deepspeed.zero, deepspeed.runtime.config, deepspeed.runtime.engine,
               deepspeed.DeepSpeedEngine, builtins, json, os]  # fmt: skip
    functions = {
        (id(owner), name): value for owner in patched for name, value in vars(owner).items() if callable(value)
    }
    timers = [signal.getitimer(which) for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]
    settings = [torch.is_grad_enabled(), torch.get_default_dtype(), str(torch.get_default_device())]
    handlers = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)]
    modules = [sys.modules.get(module.__name__) for module in (torch, deepspeed, answers, definition, exercises)]
    return functions, [settings, handlers, timers, modules, dict(os.environ), os.getcwd(), psutil.Process().children()]


def _is_as_before(before):
    """Whether this worker is as it was before the first answer, and a collective still gives what it must."""
    functions, rest = before
    functions_now, rest_now = _state()
    same = all(functions_now.get(key) is value for key, value in functions.items())
    return same and rest == rest_now and _meet()


def _meet():
    """Whether a collective gives what it must: one that an answer left unfinished would spoil it."""
    import torch

    seen = torch.full((3,), float(torch.distributed.get_rank() + 1))
    with contextlib.suppress(RuntimeError):  # a group that the answer has destroyed, or a peer that is gone
        torch.distributed.all_reduce(seen)
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 0
    return bool((seen == ranks * (ranks + 1) / 2).all())


def _leave_after(parent, leave):
    """Wait, beside an answer that may never end, until the notebook is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    leave()


def _leave(port, folder):
    """End this worker and its children, and remove what they leave: nobody else is there to do it."""
    end(descendants(os.getpid()))
    remove_shared_memory(port)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with multiprocessing.connection.Connection(int(sys.argv[1])) as pipe:
        _work(pipe, int(sys.argv[2]))
