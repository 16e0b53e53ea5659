"""When a run saves: every so many steps, at its end, and when somebody asks it to end.

    with Saves(trainer, "checkpoints/run", every=50, keep=2, options=options, say=print) as saves:
        for step in range(first, last + 1):
            ...                                  # train
            saves.after_step(step, step == last)

Slurm and machines that are taken back send SIGTERM and wait half a minute. The launcher sends it to one rank after the
other and waits for each, so the ranks tell each other, and all save after the same step.
"""

import signal

import torch

from labsupport.checkpoint.save import take_folder
from labsupport.errors import EndedEarly


class Saves:
    """Saves the trainer into `folder`, and keeps the newest `keep` tags; without a folder it does nothing.

    every: optimizer steps between two saves; None saves at the end alone. options: what the manifest tells of the run.
    """

    def __init__(self, trainer, folder, every=None, keep=None, options=None, say=print):
        self._trainer, self._folder, self._every, self._keep = trainer, folder, every, keep
        self._options, self._say, self._asked, self._before = options, say, False, None

    def __enter__(self):
        if self._folder:
            take_folder(self._folder)
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        if self._folder:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_):
        self._asked = True

    def after_step(self, step, is_last):
        """Save where it is time to; raises EndedEarly on every rank once any was asked to end. Collective."""
        if not self._folder:
            return
        asked = torch.tensor(int(self._asked), device=self._trainer.engine.device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        if not (asked or is_last or (self._every and step % self._every == 0)):
            return
        tag = self._trainer.save_checkpoint(self._folder, keep=self._keep, options=self._options)
        self._say(f"Saved {self._folder}/{tag}.")
        if asked and not is_last:
            raise EndedEarly(
                f"The run was asked to end by SIGTERM and ended after step {step}: {self._folder}/{tag} is saved; go "
                f"on from it with --resume {self._folder}."
            )
