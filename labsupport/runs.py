"""A training run: which model, with which config, on how many ranks, on how long samples. Plain data; no torch.

    run = Run("1m", labsupport.create_deepspeed_config(3, precision="bf16", train_batch_size=8), world_size=2)
    run.in_words()                                    # "stage 3, bf16, 1m on 2 ranks"
    labsupport.memory.plan_of(run).peak_bytes         # what it will hold

The program trains one, `measure` measures one, the selector shows one; a record keeps each as `as_dict` writes it.
"""

from typing import NamedTuple

from labsupport.config import config_precision, offload_devices, zero_stage
from labsupport.models import shape_named
from labsupport.shapes import Shape
from labsupport.wording import ranks_in_words

WARM_UP_STEPS = 2  # optimizer steps that are not counted in the speed: buffers and Adam's states come up in them
SEQUENCE_LENGTH = 64  # tokens of a sample where nothing else is said: few enough for a processor


class Run(NamedTuple):
    """What is trained, and on what: everything that the planner has to know of it."""

    model: str | Shape  # the name of a preset, or a shape of one's own
    config: dict  # a ds_config
    world_size: int
    sequence_length: int = SEQUENCE_LENGTH
    activation_checkpointing: bool = False
    layers: int | None = None  # in place of the preset's own number
    note: str = ""  # what is special about it, where that is more than its offload and its micro-batches

    @property
    def shape(self):
        """The Shape that is trained; raises ConfigError for a model that there is not."""
        shape = self.model if isinstance(self.model, Shape) else shape_named(self.model)
        return shape._replace(layers=self.layers) if self.layers else shape

    @property
    def model_in_words(self):
        """The model's name, with its layers where they are not the preset's own; or its size, where it has no name."""
        name = self.model if isinstance(self.model, str) else f"a model of {self.shape.parameters:,} parameters"
        return f"{name} with {self.layers} layers" if self.layers else name

    def in_words(self, with_model=True):
        """Return the run's name: its stage, precision, model and ranks, and what is special about it.

        with_model: False for a table that names the model in a column of its own.
        """
        stage, (optimizer, parameters) = zero_stage(self.config), offload_devices(self.config)
        steps = self.config.get("gradient_accumulation_steps") or 1
        strategy = f"stage {stage}" if self.note else strategy_in_words(stage, optimizer, parameters)
        ranks = ranks_in_words(self.world_size)
        where = f"{self.model_in_words} on {ranks}" if with_model else ranks
        parts = [strategy, config_precision(self.config), where]
        if self.note:
            return ", ".join([*parts, self.note])
        parts += [f"{steps} micro-batches a step"] if steps > 1 else []
        parts += ["activation checkpointing"] if self.activation_checkpointing else []
        return ", ".join(parts)

    def as_dict(self):
        """Return the run as the JSON of a record has it."""
        entry = {
            "model": self.model if isinstance(self.model, str) else self.model.as_dict(),
            "world_size": self.world_size,
            "checkpointing": self.activation_checkpointing,
            "note": self.note,
            "config": self.config,
        }
        entry |= {"sequence_length": self.sequence_length} if self.sequence_length != SEQUENCE_LENGTH else {}
        return entry | ({"layers": self.layers} if self.layers else {})

    @classmethod
    def from_dict(cls, entry):
        """Return the Run that `as_dict` wrote; other keys of the entry are not looked at."""
        return cls(
            model=Shape.from_dict(entry["model"]) if isinstance(entry["model"], dict) else entry["model"],
            config=entry["config"],
            world_size=entry["world_size"],
            sequence_length=entry.get("sequence_length", SEQUENCE_LENGTH),
            activation_checkpointing=entry.get("checkpointing", False),
            layers=entry.get("layers"),
            note=entry.get("note", ""),
        )


def strategy_in_words(stage, offload_optimizer="none", offload_param="none"):
    """Return a stage and what is offloaded, in words: "stage 3, optimizer on the host, parameters on NVMe"."""
    where = {"cpu": "the host", "nvme": "NVMe"}
    devices = (("optimizer", offload_optimizer), ("parameters", offload_param))
    offloaded = [f"{what} on {where[device]}" for what, device in devices if device != "none"]
    return ", ".join([f"stage {stage}", *offloaded])
