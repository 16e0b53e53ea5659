"""What a reader's mistake raises: one sentence that says what is wrong, with which value, and what to do."""

import os


class LabError(Exception):
    """A mistake that the reader can mend; the message is one sentence and is all that is shown."""

    status = 2  # of a program that it ends
    told_by = 0  # the rank that tells it, where it is the same on all

    def _render_traceback_(self):
        """Tell IPython to show the sentence alone: the way through our code teaches nobody anything."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(LabError, ValueError):
    """A DeepSpeed config that DeepSpeed would refuse, or, worse, would silently ignore."""


class CheckpointError(LabError, RuntimeError):
    """A checkpoint that cannot be saved or loaded as asked."""


class TrainingError(LabError, RuntimeError):
    """Training that cannot start here or cannot go on: hardware, ports, a model, a batch, a loss that is no number."""


class EndedEarly(LabError, RuntimeError):
    """A run that was asked to end, and has saved what it had."""

    status = os.EX_TEMPFAIL  # 75: a scheduler that knows it starts the job again
