"""A config as the rules see it: what stands in it, what DeepSpeed's parser makes of it, and where it is to run."""

import copy
import functools
import math
from typing import NamedTuple

from labsupport.doctor.blocks import MONITORS, OldAndNew, ValidationError, defaults, model_of, read
from labsupport.doctor.known import known

BATCH_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
# What transformers' TrainingArguments has where nobody says otherwise, and the argument that says so. The three sizes
# from the model's hidden size are filled in for a hidden size of 4096, that of a model of 7e9 parameters.
HIDDEN_SIZE = 4096
TRAINER = {
    "train_micro_batch_size_per_gpu": (8, "per_device_train_batch_size"),
    "gradient_accumulation_steps": (1, "gradient_accumulation_steps"),
    "train_batch_size": (None, "per_device_train_batch_size x gradient_accumulation_steps x ranks"),
    "gradient_clipping": (1.0, "max_grad_norm"),
    "optimizer.params.lr": (5e-5, "learning_rate"),
    "optimizer.params.betas": ([0.9, 0.999], "adam_beta1 and adam_beta2"),
    "optimizer.params.eps": (1e-8, "adam_epsilon"),
    "optimizer.params.weight_decay": (0.0, "weight_decay"),
    "scheduler.params.warmup_min_lr": (0, "no argument: it is 0"),
    "scheduler.params.warmup_max_lr": (5e-5, "learning_rate"),
    "scheduler.params.warmup_num_steps": (1, "warmup_steps"),
    "scheduler.params.total_num_steps": (1000, "the steps of the whole run"),
    "fp16.enabled": (False, "fp16"),
    "bf16.enabled": (False, "bf16"),
    "zero_optimization.reduce_bucket_size": (HIDDEN_SIZE**2, "the model's hidden_size, squared"),
    "zero_optimization.stage3_prefetch_bucket_size": (int(0.9 * HIDDEN_SIZE**2), "0.9 x hidden_size, squared"),
    "zero_optimization.stage3_param_persistence_threshold": (10 * HIDDEN_SIZE, "10 x hidden_size"),
}
AT_STAGE_3_ALONE = ("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")


class Batch(NamedTuple):
    """The batch triple as DeepSpeed fills it in on that many data-parallel ranks, or why it cannot."""

    train: object = None
    micro: object = None
    steps: object = None
    ranks: object = 1
    refusal: str | None = None  # "sizes", "arithmetic", "none", "positive" or "product"


class Case:
    """A config, and everything that rules ask about it; what DeepSpeed refuses is read as its defaults."""

    def __init__(self, config, world_size=None, accelerator=None, gpu=None, parameters=None, hugging_face=False,
                 document=None):  # fmt: skip
        self.given = config
        self.world_size, self.accelerator, self.gpu = world_size, accelerator, gpu
        self.parameters, self.hugging_face, self.document = parameters, hugging_face, document
        self.filled = {}  # {path of a key: (value, argument)}, by the Trainer
        self.config = config if isinstance(config, dict) else {}
        if hugging_face and self.config:
            self.config = copy.deepcopy(self.config)
            self._fill(self.config)

    def _fill(self, config):
        zero = config.get("zero_optimization")
        stage = zero.get("stage") if isinstance(zero, dict) else None
        for name in known()["trainer_fills"]:
            *blocks, key = name.split(".")
            block = config
            for each in blocks:
                block = block.get(each) if isinstance(block, dict) else None
            if not isinstance(block, dict) or block.get(key) != "auto" or name not in TRAINER:
                continue
            if key in AT_STAGE_3_ALONE and stage != 3:
                continue
            value, argument = TRAINER[name]
            self.filled[tuple(name.split("."))] = value, argument
            if value is None:
                del block[key]
            else:
                block[key] = value

    def place(self, path):
        """Return the line and column of a key, or of the nearest block that holds it; (None, None) without a file."""
        return self.document.place(path) if self.document else (None, None)

    def block(self, name):
        """Return a block that is a dict, by its dotted name; an empty dict where it is absent or something else."""
        found = self.config
        for step in name.split("."):
            found = found.get(step) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    @functools.cached_property
    def _read(self):
        """({root: Block or None}, [(path, pydantic's error or OldAndNew)])."""
        blocks, errors = {}, []
        for root, (path, value) in self.roots.items():
            try:
                blocks[root] = read(root, value)
            except ValidationError as error:
                errors += [((*path, *_keys(root, each["loc"])), each) for each in error.errors(include_url=False)]
            except OldAndNew as error:
                errors.append(((*path, error.old), error))
            except TypeError:  # a key that Python's own call cannot take, such as "self"
                errors.append((path, {"type": "call", "msg": "one of its keys cannot be passed on", "input": value}))
        return blocks, errors

    @functools.cached_property
    def roots(self):
        """{root: (path, dict)} of the blocks that pydantic reads, as far as they are dicts."""
        found = {"monitor": ((), {key: self.config.get(key, {}) for key in MONITORS})}
        for root in known()["roots"]:
            outer, _, inner = root.partition(".")
            value, path = self.config.get(outer), (outer,)
            if root == "bf16" and value is None:
                value, path = self.config.get("bfloat16"), ("bfloat16",)
            if root == "zero_optimization" and isinstance(value, bool):
                value = {"stage": int(value)} | (
                    {"allgather_bucket_size": self.config.get("allgather_size", 5e8)} if value else {}
                )
            if inner and isinstance(value, dict):
                value, path = value.get(inner), (outer, inner)
            if isinstance(value, dict):
                found[root] = path, value
        return found

    @property
    def errors(self):
        """What pydantic refuses, as (path, error)."""
        return self._read[1]

    def parsed(self, root):
        """Return the Block of a root such as "fp16": DeepSpeed's reading, or its defaults where there is none."""
        return self.taken(root) or defaults(root)

    def taken(self, root):
        """Return the same, or None where there is no such block or DeepSpeed refuses it."""
        return self._read[0].get(root)

    def written(self, root):
        """Return the dict that the file has for a root of pydantic, empty where there is none."""
        return self.roots[root][1] if root in self.roots else {}

    zero = property(lambda self: self.parsed("zero_optimization"))
    fp16 = property(lambda self: self.parsed("fp16"))
    bf16 = property(lambda self: self.parsed("bf16"))
    tensor_parallel = property(lambda self: self.parsed("tensor_parallel"))

    @property
    def stage(self):
        """The ZeRO stage in force."""
        return self.zero.stage

    @property
    def precision(self):
        """ "fp16", "bf16" or "fp32", as the engine takes it."""
        return "fp16" if self.fp16.enabled else "bf16" if self.bf16.enabled else "fp32"

    @property
    def offload(self):
        """Where optimizer states and parameters are sent: a pair of "none", "cpu" or "nvme"."""
        blocks = (self.zero.offload_optimizer, self.zero.offload_param)
        return tuple(block.device if block else "none" for block in blocks)

    @property
    def offload_in_force(self):
        """The same as `offload`, as DeepSpeed does it: no parameters below stage 3, no NVMe, and nothing at stage 0."""
        optimizer, parameters = self.offload
        if self.stage == 3:
            return optimizer, parameters
        return "cpu" if optimizer != "none" and self.stage else "none", "none"

    def value(self, key):
        """Return what DeepSpeed reads at the top level for a key, its default where the key is absent."""
        return self.config.get(key, known()["top_level"].get(key))

    @property
    def optimizer(self):
        """The name of the optimizer as DeepSpeed has it, lower-case where it is one of its own; None without one."""
        name = self.block("optimizer").get("type")
        if not isinstance(name, str):
            return None
        return name.lower() if name.lower() in known()["optimizers"] else name

    @property
    def optimizer_params(self):
        """The parameters of the optimizer, an empty dict where there are none."""
        return self.block("optimizer.params")

    @functools.cached_property
    def data_parallel_ranks(self):
        """The ranks by which DeepSpeed multiplies the micro-batch; None where nobody says how many there are."""
        if self.world_size is None or "sequence_parallel_size" not in self.config:
            return self.world_size
        try:
            return self.world_size / self.config["sequence_parallel_size"]
        except (TypeError, ZeroDivisionError):
            return None

    @functools.cached_property
    def batch(self):
        """The Batch on these ranks, or on one where nobody says how many."""
        return filled_in(*(self.config.get(key) for key in BATCH_KEYS), ranks=self.data_parallel_ranks or 1)


def filled_in(train, micro, steps, ranks):
    """Return the Batch that DeepSpeed makes of what is given: runtime/config.py, _set_batch_related_parameters."""
    if not all(value is None or isinstance(value, int | float) for value in (train, micro, steps)):
        return Batch(train, micro, steps, ranks, "sizes")
    try:
        train, micro, steps = _completed(train, micro, steps, ranks)
        if train is None:
            return Batch(ranks=ranks, refusal="none")
        for size in (train, micro, steps):
            if not size > 0:
                return Batch(train, micro, steps, ranks, "positive")
        if train != micro * steps * ranks or math.isnan(train):
            return Batch(train, micro, steps, ranks, "product")
    except ZeroDivisionError:
        return Batch(train, micro, steps, ranks, "positive")
    except (TypeError, ValueError, OverflowError):
        return Batch(train, micro, steps, ranks, "sizes")
    return Batch(train, micro, steps, ranks)


def _completed(train, micro, steps, ranks):
    if train is not None and micro is not None:
        if steps is None:
            steps = train // micro
            steps //= ranks
    elif train is not None and steps is not None:
        micro = train // ranks
        micro //= steps
    elif micro is not None and steps is not None:
        train = micro * steps
        train *= ranks
    elif train is not None:
        micro, steps = train // ranks, 1
    elif micro is not None:
        train, steps = micro * ranks, 1
    return train, micro, steps


def _keys(root, location):
    """pydantic's location, without the names of the alternatives of a union."""
    steps, model = [], model_of(root)
    for step in location:
        if isinstance(step, int) or not steps or model is None or step not in ("str", "int", "bool", "none"):
            steps.append(step)
    return steps


__all__ = ["BATCH_KEYS", "TRAINER", "Batch", "Case", "filled_in"]
