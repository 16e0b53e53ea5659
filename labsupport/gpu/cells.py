"""What there is to measure: a Cell is a Run and how to time it. Plain data; no torch.

    Cell("grid", run, steps=10, windows=5).as_dict()

measurements.py says what each kind measures; worker.py does it, in a process for each cell.
"""

from typing import NamedTuple

from labsupport.runs import Run

WARM_UP_WINDOWS = 2
OUT_OF_MEMORY = "out_of_memory"  # the key of an entry whose cell was too large
PRECISIONS = ("bf16", "fp16", "fp32")
OWN_LOOP = "DeepSpeedTrainer"  # of labsupport.gpu.training_loops


class Cell(NamedTuple):
    """One thing to measure: a Run and how to time it; or the machine itself, without a Run."""

    kind: str  # how it is measured: one of measurements.KINDS
    run: Run | None = None
    steps: int = 1  # of a window, which is timed as a whole
    windows: int = 1  # that are counted, after WARM_UP_WINDOWS
    loop: str = OWN_LOOP  # one of labsupport.gpu.training_loops
    compile: str | None = None  # torch.compile's backend for the layers
    gpu_memory_limit_bytes: int | None = None  # of PyTorch's allocator

    @property
    def world_size(self):
        """The ranks that measure it."""
        return self.run.world_size if self.run else 1

    @property
    def micro_batch_size(self):
        """The samples that a rank trains on in one forward pass."""
        return self.run.config["train_micro_batch_size_per_gpu"]

    @property
    def model_in_words(self):
        """What is trained and in how large batches: cells that have this in common can be set beside each other."""
        return f"{self.run.model_in_words}, micro-batch {self.micro_batch_size}"

    def in_words(self, with_model=True):
        """Return the run's name, with the loop where that is not the trainer, and what is compiled."""
        parts = [self.run.in_words(with_model)]
        if self.loop != OWN_LOOP:
            parts = [self.loop, parts[0].removeprefix("stage 0, ")]  # without DeepSpeed there is no stage
        parts += [f"micro-batch {self.micro_batch_size}"] if with_model else []
        parts += ["compiled layers"] if self.compile else []
        return ", ".join(parts)

    def as_dict(self):
        """Return the cell as the JSON of a record has it."""
        return self._asdict() | {"run": self.run.as_dict() if self.run else None}

    @classmethod
    def from_dict(cls, entry):
        """Return the Cell that `as_dict` wrote."""
        return cls(**entry | {"run": Run.from_dict(entry["run"]) if entry["run"] else None})
