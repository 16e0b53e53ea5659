"""The suites of `make gpu`: which Cells each one measures on this machine. Plain data; no torch.

    tier = Tier(dry_run=False, ranks=1)
    tier.environment, tier.ops = ...        # what the first two suites found
    SUITES["grid"](tier)                    # cells for session.py, or why there is nothing to measure

A suite is a part of `make gpu`, with a record of its own. It is not how its cells are measured: that is a cell's
`kind`, a function of measurements.py, and the suite "offload" holds cells of the kind "grid". Neither is a ZeRO stage,
which is the only thing that is called so here. session.py runs the suites. The model is the largest preset that the
planner finds room for.
"""

import shutil
import tempfile

from labsupport.config import config_precision, create_deepspeed_config, merge_configs, zero_stage
from labsupport.errors import TrainingError
from labsupport.gpu.cells import OWN_LOOP, PRECISIONS, WARM_UP_WINDOWS, Cell
from labsupport.machine.probes import locking_obstacle, processor_computes_fp16
from labsupport.measure import agreement
from labsupport.measure.agreement import small_run
from labsupport.memory.planner import plan, plan_of
from labsupport.memory.room import ALLOWANCE_BYTES, last_that_holds
from labsupport.models import PRESETS, shape_named
from labsupport.runs import Run

MODELS = ("1.3b", "300m", "85m", "10m", "1m", "tiny")  # from large to small, all GPT-2
ROOM = 0.9  # of a GPU's memory that a planned peak may take: the planner's own tolerance is left free
# Of the host's memory or of a drive, what offload may take by plan: PyTorch pins powers of two, and others live there.
HOST_ROOM = 0.6
SLOW_STEPS = 2  # steps of a window in fp32 and with offload
BUCKET_ELEMENTS = 200_000_000
WARM_UP_STEPS = f"{WARM_UP_WINDOWS} windows"
NVME_FOLDER = "nvme"  # stands in a cell's config; the folder itself is the machine's own affair


class Tier:
    """What is measured on: the sizes follow from it. environment and ops are what the suites of that name found."""

    def __init__(self, dry_run, ranks, model=None, memory_gib=24.0, nvme_path=None):
        self.dry_run, self.ranks, self.memory_gib = dry_run, ranks, memory_gib
        self.nvme_path = nvme_path or tempfile.gettempdir()
        self.wanted_model = shape_named(model) and model if model else None
        self.steps, self.windows = (1, 2) if dry_run else (10, 5)
        self.environment = self.ops = None

    def some(self, cells, each):
        """Return the cells; in a dry run only one of every `each`, which shows as well that they work."""
        return cells[::each] if self.dry_run else cells

    @property
    def gpu_bytes(self):
        """The memory of one GPU; a CPU stands for a small one."""
        return self.environment["memory_bytes"] or 2**30

    @property
    def precisions(self):
        """Those that the device computes in."""
        if self.dry_run:
            return [each for each in PRECISIONS if each != "fp16" or processor_computes_fp16()]
        return [each for each in PRECISIONS if each != "bf16" or self.environment["precision"] == "bf16"]

    @property
    def accelerator(self):
        """DeepSpeed's name of it."""
        return "cpu" if self.dry_run else "cuda"

    def model(self, precision):
        """Return (preset, micro-batch) of the largest preset for which every stage fits in that precision.

        Raises TrainingError, with both sizes, for a preset that was asked for and does not fit.
        """
        if self.dry_run:
            return "tiny", 2
        for name in [self.wanted_model] if self.wanted_model else MODELS:
            for micro_batch in (8, 4, 2, 1):
                needed = self._peak(name, micro_batch, precision)
                if needed <= ROOM * self.gpu_bytes:
                    return name, micro_batch
        raise TrainingError(
            f"{name} needs about {needed / 2**30:.1f} GiB in {precision} with one sample, and the GPU has "
            f"{self.gpu_bytes / 2**30:.1f} GiB: name a smaller --model."
        )

    def _peak(self, name, micro_batch, precision):
        configs = (self.config(stage, precision, micro_batch) for stage in range(4))
        return max(plan(name, config, world_size=self.ranks).peak_bytes for config in configs) + ALLOWANCE_BYTES

    def config(self, stage, precision, micro_batch, ranks=None, **choices):
        """Return a config of this tier: the same buckets everywhere, and the Adam that this machine can run."""
        config = create_deepspeed_config(
            stage, precision=precision, world_size=ranks or self.ranks, micro_batch_size=micro_batch,
            train_batch_size=None, nvme_path=NVME_FOLDER if "nvme" in choices.values() else None,
            bucket_size=20_000 if self.dry_run else BUCKET_ELEMENTS, **choices,
        )  # fmt: skip
        return _low_scale(merge_configs(config, self.adam if not any(choices.values()) else {}))

    @property
    def adam(self):
        """What a config says where FusedAdam does not compile, so that the planner knows of it too."""
        torch_adam = self.ops and self.ops["optimizer"] == "torch AdamW"
        return {"optimizer": {"params": {"torch_adam": True}}} if torch_adam else {}

    def cell(self, kind, stage, precision="bf16", model=None, micro_batch=None, ranks=None, timing=None, **choices):
        """Return a Cell. timing: its own fields, beside kind and run. choices: what create_deepspeed_config takes."""
        name, most = self.model(precision)
        name, micro_batch = model or name, micro_batch or most
        config = self.config(stage, precision, micro_batch, ranks, **choices)
        if choices.get("offload_param") == "nvme":
            config = merge_configs(config, {"zero_optimization": {"offload_param": {"buffer_size": 60_000_000}}})
        steps, windows = self.steps, self.windows
        if precision == "fp32" or any(choices.values()):
            steps = min(steps, SLOW_STEPS)
        if "nvme" in choices.values():
            steps, windows = 1, 2  # each step writes all states to a drive that wears
        length = 32 if self.dry_run else shape_named(name).longest_sequence
        run = Run(name, config, ranks or self.ranks, length)
        return Cell(kind, run, **{"steps": steps, "windows": windows} | (timing or {}))


def _low_scale(config):
    """A loss scale low enough that fp16 skips no step: a skipped one makes no Adam states to count."""
    if config_precision(config) == "fp16":
        config["fp16"]["initial_scale_power"] = 8
    return config


def environment(_tier):
    """The machine and its rates."""
    return [Cell("environment")]


def ops(_tier):
    """The ops that DeepSpeed compiles."""
    return [Cell("ops")]


def grid(tier):
    """Stages 0 to 3 in every precision: bytes by role from the ledger and the allocator, and speed."""
    return tier.some(
        [tier.cell("grid", stage, precision) for precision in tier.precisions for stage in range(4)], each=3
    )


def memory(tier):
    """Settings that the grid leaves out, for the planner to be held against: a small model, many configs."""
    sizes = {"model": "tiny" if tier.dry_run else "85m", "world_size": tier.ranks,
             "bucket_size": 20_000 if tier.dry_run else 20_000_000}  # fmt: skip
    low = tier.precisions[0]
    runs = [small_run(stage, low, accumulation=2, note="2 micro-batches a step", **sizes) for stage in range(4)]
    runs += [small_run(stage, low, checkpointing=True, note="activation checkpointing", **sizes) for stage in (0, 3)]
    runs += [small_run(3, low, more=agreement.RELEASE, note="parameters released after use", **sizes)]
    if low == "bf16":
        runs += [small_run(stage, grad_accum_dtype="fp32", note="fp32 accumulation", **sizes) for stage in (1, 2, 3)]
    runs += [
        small_run(stage, low, accumulation=2, offload_optimizer="cpu", note="optimizer on the CPU, 2 micro-batches",
                  **sizes)
        for stage in (1, 2, 3)
    ]  # fmt: skip
    length = 32 if tier.dry_run else 512
    cells = []
    for run in tier.some(runs, each=6):
        adam = tier.adam if "offload_optimizer" not in run.config["zero_optimization"] else {}
        run = run._replace(config=_low_scale(merge_configs(run.config, adam)), sequence_length=length)
        cells.append(Cell("memory", run))
    return cells


def speed(tier):
    """Plain PyTorch, DDP, FSDP2 and ZeRO with the same model and batch, eager and with compiled layers."""
    low = tier.precisions[0]
    ways = [("plain PyTorch", 0, 1), ("DDP", 0, None)]
    ways += [("FSDP2", 0, None)] if low == "bf16" else []
    ways += [(OWN_LOOP, stage, None) for stage in range(4)]
    backend = "aot_eager" if tier.dry_run else "inductor"
    eager, compiled = (
        [
            tier.cell("speed", stage, low, ranks=ranks, timing={"loop": loop, "compile": how})
            for loop, stage, ranks in ways
        ]
        for how in (None, backend)
    )
    # Stage 3's hooks break torch.compile's graphs at every module, and what is timed then is no compiled layer.
    compiled = [cell for cell in compiled if zero_stage(cell.run.config) < 3]
    return eager + tier.some(compiled, each=4)


def trainer(tier):
    """The trainer beside a loop written by hand and beside the Hugging Face Trainer, same config and batch."""
    low = tier.precisions[0]
    return [tier.cell(kind, 2, low) for kind in ("loops", "hugging face")]


def offload(tier):
    """Where the states lie, and what that costs in speed, with one model that has room on GPU, host and drive."""
    low, found = tier.precisions[0], []
    largest_on_gpu = tier.model(low)[0]
    for name in MODELS[MODELS.index(largest_on_gpu) :] if largest_on_gpu in MODELS else (largest_on_gpu, *MODELS):
        found = [
            tier.cell(
                "grid", stage, low, model=name, offload_optimizer=states or False, offload_param=parameters or False
            )
            for stage, states, parameters in OFFLOADS
            if "nvme" not in (states, parameters) or tier.ops["nvme"]
        ]
        if tier.dry_run or all(_fits(tier, cell.run, ROOM * tier.gpu_bytes) for cell in found):
            break
    return tier.some(found, each=3)


OFFLOADS = (
    (2, None, None), (2, "cpu", None), (3, "cpu", None), (3, "cpu", "cpu"), (3, "nvme", None), (3, "nvme", "nvme"),
)  # fmt: skip


def largest(tier):
    """The largest model per strategy: as many layers of the 1.3b shape as fit, from a little more than is planned."""
    low, found = tier.precisions[0], []
    # A card holds CUDA's own memory too, which the limit on PyTorch's allocator does not know.
    limit = min(tier.gpu_bytes, tier.memory_gib * 2**30 or tier.gpu_bytes) - ALLOWANCE_BYTES
    for stage, states, parameters, checkpointing in STRATEGIES:
        if "nvme" in (states, parameters) and not tier.ops["nvme"]:
            continue
        choices = {"offload_optimizer": states or False, "offload_param": parameters or False}
        name = "tiny" if tier.dry_run else "1.3b"
        timing = {"steps": 1, "windows": 2, "gpu_memory_limit_bytes": int(limit)}
        cell = tier.cell("speed", stage, low, model=name, micro_batch=1, timing=timing, **choices)
        run, layers = cell.run._replace(activation_checkpointing=checkpointing), 2
        if not tier.dry_run:
            layers = last_that_holds(lambda count, run=run: _fits(tier, run._replace(layers=count), limit), 400)
        found.append(cell._replace(run=run._replace(layers=max(1, layers + -(-layers // 20)))))
    return tier.some(found, each=3)


STRATEGIES = (
    (0, None, None, False), (0, None, None, True), (2, "cpu", None, True), (3, "cpu", "cpu", True),
    (3, "nvme", "nvme", True),
)  # fmt: skip


def _fits(tier, run, limit):
    planned = plan_of(run, tier.accelerator)
    host, disk = tier.environment["host_memory_bytes"], shutil.disk_usage(tier.nvme_path).free
    return (
        planned.place_bytes("peak", "GPU") <= limit
        and tier.ranks * planned.host_bytes("peak") <= HOST_ROOM * host
        and tier.ranks * planned.place_bytes("at rest", "NVMe") <= HOST_ROOM * disk
        and not locking_obstacle(planned.nvme_buffer_bytes)
    )


def scaling(tier):
    """The same batch on every GPU, on more and more of them: speed, message bytes, the share of NCCL in a step."""
    if tier.ranks < 2:
        return "nothing to measure, because this machine has one GPU and messages need two."
    counts = [count for count in (1, 2, 4, 8, 16) if count <= tier.ranks]
    low = tier.precisions[0]
    cells = [tier.cell("communication", stage, low, ranks=count) for count in counts for stage in range(4)]
    return tier.some(cells, each=5)


SUITES = {
    "environment": environment, "ops": ops, "grid": grid, "memory": memory, "speed": speed, "trainer": trainer,
    "offload": offload, "largest": largest, "scaling": scaling,
}  # fmt: skip


def next_size_down(cell):
    """Return the Cell to try when this one runs out of memory, or None where there is no smaller one.

    Half the micro-batch first; then the next smaller preset, or a twentieth fewer layers where layers are counted.
    """
    run = cell.run
    if run is None:
        return None
    if run.layers:
        fewer = run.layers - -(-run.layers // 20)
        return cell._replace(run=run._replace(layers=fewer)) if fewer else None
    if cell.micro_batch_size > 1:
        config = run.config | {"train_micro_batch_size_per_gpu": cell.micro_batch_size // 2}
        config.pop("train_batch_size", None)  # DeepSpeed infers it
        return cell._replace(run=run._replace(config=config))
    below = MODELS[MODELS.index(run.model) + 1 :] if run.model in MODELS else MODELS
    if not below:
        return None
    length = min(run.sequence_length, PRESETS[below[0]].longest_sequence)
    return cell._replace(run=run._replace(model=below[0], sequence_length=length))


def label(cell):
    """Return a Cell in a few words."""
    return f"{cell.kind}: {cell.in_words()}" if cell.run else cell.kind


def line(entry):
    """Return what came of an entry in a few words."""
    if "error" in entry:
        return entry["error"]
    result, words = entry["measured"], []
    if "tokens_per_second" in result:
        words.append(f"{result['tokens_per_second']:,.0f} tokens/s")
    if result.get("peak_bytes"):
        words.append(f"peak {result['peak_bytes'] / 2**30:.2f} GiB")
    for name, ratio in result.get("median_ratio_to_by_hand", {}).items():
        words.append(f"{name} {ratio:.3f} of by hand")
    if "moments" in result:
        compared = agreement.compare(Cell.from_dict(entry["cell"]).run, result, agreement.accelerator_of(result))
        states = max(abs(error) for *_, error in compared["states"].values())
        words.append(f"planner {states:.1%} off in model states, {compared['peak'][2]:+.1%} at the peak")
    return ", ".join(words) or "done"
