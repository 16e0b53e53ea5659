"""A reader's own script on this rank, until it has made three optimizer steps, with the ledger on.

    torchrun --nproc_per_node 2 -m labsupport.measure.script result.json train.py --its --own arguments

labsupport/measure/__main__.py starts the ranks and prints what rank 0 wrote. The first step makes the optimizer's
states, in the second the messages are counted, the third is watched.
"""

import contextlib
import copy
import inspect
import runpy
import sys
from pathlib import Path

import deepspeed
import torch
from torch.utils._pytree import tree_leaves

from labsupport.command_line import exit_status, write_json
from labsupport.config import parse_config
from labsupport.engine import choose_adam, end_rank, start_distributed
from labsupport.errors import LabError
from labsupport.machine.op_builds import prepare_op_builds
from labsupport.measure.claims import address, storages
from labsupport.measure.collectives import counted_messages
from labsupport.measure.ledger import held_by_place
from labsupport.measure.plan_model import plan_model
from labsupport.measure.small_copy import MEASURED_WHOLE
from labsupport.measure.timeline import around_calls, watching
from labsupport.models import count_parameters
from labsupport.settings import read_settings
from labsupport.wording import first_line

STEPS = 3


class Finished(BaseException):
    """All is measured; a script that catches every Exception does not catch this."""


class Session:
    """What is seen of one script: its engine, its model before that, its first batch, and what it held."""

    def __init__(self):
        self.engine = self.copy = self.batch = self.watch = None
        self.steps, self.result, self.open = 0, {}, contextlib.ExitStack()

    def initialize(self, original):
        """Return deepspeed.initialize as the script shall see it."""
        signature = inspect.signature(original)

        def observed(*positional, **named):
            asked = signature.bind(*positional, **named).arguments
            if self.engine is None and asked.get("model") is not None:
                self.copy = _copy_of(asked["model"])
            start_distributed()
            result = original(**_with_an_adam_of_processors(asked))
            if self.engine is None:
                self.engine = result[0]
                around_calls(self.engine, "forward", before=self.before_forward)
                around_calls(self.engine, "step", after=self.after_step)
            return result

        return observed

    def before_forward(self, *positional, **named):
        """Keep the first micro-batch."""
        if self.batch is None and bool(positional) != bool(named):
            self.batch = copy.deepcopy(named or positional)

    def after_step(self):
        """Measure what is due after the optimizer step that was made, if one was."""
        if self.engine.global_steps == self.steps:
            return
        self.steps = self.engine.global_steps
        if self.steps == 1:
            self.watch = self.open.enter_context(watching(self.engine, self._own_bytes()))
            self.sent = self.open.enter_context(counted_messages())
        elif self.steps == 2:
            self.result["collectives"] = {name: size for name, size in self.sent.items() if size}
            self.result["at rest"] = held_by_place(self.engine, self._own_bytes())
            self.watch.begin()
        else:
            self.open.close()
            self.result |= {"peak": self.watch.step.peak, "peak_phase": self.watch.step.peak_phase}
            raise Finished

    def end(self):
        """Leave what a script that ended early has open: its standard error is silent until then."""
        with contextlib.suppress(ValueError):  # the watched step never began
            self.open.close()

    def _own_bytes(self):
        """What this session itself keeps: the copy of the model, and the first micro-batch."""
        kept = [*self.copy.parameters(), *self.copy.buffers()] if self.copy else []
        kept += [leaf for leaf in tree_leaves(self.batch) if isinstance(leaf, torch.Tensor)]
        return sum(storage.nbytes() for storage in {address(each): each for each in storages(kept)}.values())

    def planned(self):
        """Return the Plan of what the script asked for, as plain data, and what it is without."""
        config, model = self.engine.config, self.copy
        batch, why = self.batch, ""
        ranks = torch.distributed.get_world_size()
        if model is None:
            batch, why = None, "the model was partitioned before DeepSpeed got it, or is too large to be copied here"
        try:
            plan = plan_model(model or self.engine.module, config, batch, world_size=ranks, accelerator="cpu")
        except LabError as error:
            why = str(error)
            plan = plan_model(model or self.engine.module, config, world_size=ranks, accelerator="cpu")
        return {
            "moments": plan.moments,
            "peak_phase": plan.peak_phase,
            "collectives": plan.collectives,
            "stage": plan.settings.stage,
            "precision": plan.settings.precision,
            "not_described": [f"{what} ({why})" if why and "activations" in what else what
                              for what in plan.settings.not_described],
        }  # fmt: skip


def _with_an_adam_of_processors(asked):
    """The arguments of deepspeed.initialize, with PyTorch's Adam where the config would have FusedAdam compiled."""
    key = next((name for name in ("config", "config_params") if asked.get(name) is not None), None)
    if key is None or asked.get("optimizer") is not None:
        return asked
    config = copy.deepcopy(asked[key]) if isinstance(asked[key], dict) else parse_config(asked[key])
    choose_adam(config, read_settings(config, torch.distributed.get_world_size()))
    return asked | {key: config}


def _copy_of(model):
    parameters = list(model.parameters())
    if any(hasattr(parameter, "ds_numel") for parameter in parameters):
        return None
    return copy.deepcopy(model) if sum(map(torch.Tensor.numel, parameters)) <= MEASURED_WHOLE else None


def run(arguments=None):
    """Run the script that the command line names and write what it held; the exit status."""
    result, script, *own = sys.argv[1:] if arguments is None else arguments
    session = Session()
    prepare_op_builds("cpu")  # also for a script that joins the process group itself
    deepspeed.initialize = session.initialize(deepspeed.initialize)
    sys.argv, sys.path[0] = [script, *own], str(Path(script).resolve().parent)
    try:
        runpy.run_path(script, run_name="__main__")
    except Finished:
        measured = session.result | {"planned": session.planned()}
        facts = {"model": type(session.engine.module).__name__, "parameters": count_parameters(session.engine.module),
                 "world_size": torch.distributed.get_world_size()}  # fmt: skip
        if torch.distributed.get_rank() == 0:
            write_json(result, facts | measured)
        return 0
    except LabError:
        session.end()
        raise
    except SystemExit as ended:
        session.end()
        if ended.code not in (0, None):
            raise LabError(f"{script} ended itself with status {ended.code}: give it the arguments it needs.") from None
    except Exception as error:
        session.end()
        line = _line_of(error, script)
        raise LabError(f"{script}{line}: {first_line(error)}") from error
    session.end()
    if session.engine is None:
        raise LabError(f"{script} ended without a call of deepspeed.initialize: there is nothing to measure.")
    raise LabError(
        f"{script} ended after {session.steps} optimizer steps, and {STEPS} are needed, of which the first makes the "
        "optimizer's states and the third is measured: give it more batches."
    )


def _line_of(error, script):
    """Where in the script an error was raised: ", line 12"; nothing where it never came there."""
    lines = [frame.tb_lineno for frame in _frames(error.__traceback__) if frame.tb_frame.f_code.co_filename == script]
    return f", line {lines[-1]}" if lines else ""


def _frames(traceback):
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


if __name__ == "__main__":
    end_rank(exit_status(run))
