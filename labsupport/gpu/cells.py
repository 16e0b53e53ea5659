"""One measurement of the GPU tier, in a process of its own: what `make gpu` starts, and a lab on a GPU.

    python -m labsupport.gpu.cells cell.json result.jsonl          # also under torchrun, for several ranks

A Cell is a Run and how to time it; its `kind` says what is measured: a function of KINDS. The result is a line of
JSON; a cell that fails leaves its sentence there.
"""

import contextlib
import copy
import functools
import io
import itertools
import json
import os
import re
import statistics
import sys
import time
from typing import NamedTuple

from labsupport.errors import LabError
from labsupport.measure.agreement import with_nvme_path
from labsupport.runs import Run

WARM_UP_WINDOWS = 2
OUT_OF_MEMORY = "out_of_memory"
PRECISIONS = ("bf16", "fp16", "fp32")
OWN_LOOP = "DeepSpeedTrainer"  # of labsupport.gpu.training_loops


class Cell(NamedTuple):
    """One thing to measure: a Run and how to time it; or the machine itself, without a Run."""

    kind: str  # how it is measured: a function of KINDS
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


# What is measured. Every function takes a cell and the device of this rank, and every rank calls it.


def environment(_cell, device):
    """What this machine is: GPU, driver, CUDA, host, and the rates that the other suites are set against."""
    import torch

    from labsupport.machine.hardware import describe_machine
    from labsupport.machine.probes import driver_version, host_memory_bytes
    from labsupport.step_time.flops import MATRIX_SIZE, measured_matmul_flops

    machine = describe_machine()
    on_gpu = device.type == "cuda"
    # On a processor there is no measurement, only a try: it has to be short.
    size, seconds = (MATRIX_SIZE, 1.0) if on_gpu else (256, 0.02)
    properties = torch.cuda.get_device_properties(device) if on_gpu else None
    return {
        "machine": str(machine),
        "device": machine.device,
        "devices": machine.devices,
        "precision": machine.precision,
        "memory_bytes": properties.total_memory if on_gpu else None,
        "compute_capability": f"{properties.major}.{properties.minor}" if on_gpu else None,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "cores": len(os.sched_getaffinity(0)),
        "host_memory_bytes": host_memory_bytes(),
        "matmul_flops": {
            precision: measured_matmul_flops(_dtype(precision), device, size, seconds)
            for precision in (PRECISIONS if on_gpu else ("bf16", "fp32"))
        },
        "copy_bytes_per_second": _copy_rates(device, 2**30) if on_gpu else {},
    }


def ops(_cell, _device):
    """Which ops DeepSpeed could compile here, how long that took, and which Adam the machine gets, and why."""
    from labsupport.machine.hardware import describe_machine
    from labsupport.machine.ops import compile_ops

    start = time.perf_counter()
    machine = describe_machine()
    failed = compile_ops()
    return {
        "optimizer": "DeepSpeed FusedAdam" if machine.fused_adam else "torch AdamW",
        "reason": machine.fused_adam_reason,
        "nvme": machine.nvme and "async_io" not in failed,
        "nvme_reason": machine.nvme_reason or ("async_io does not compile here." if "async_io" in failed else ""),
        "failed": failed,
        "seconds": time.perf_counter() - start,
    }


def memory(cell, _device):
    """What the ledger counts at the four moments of a step, as labsupport.measure.agreement measures it."""
    from labsupport.measure.agreement import measure

    return measure(cell.run)


def speed(cell, device):
    """How fast one of labsupport.gpu.training_loops trains, and the most that the allocator held meanwhile."""
    from labsupport.gpu.training_loops import LOOPS

    advance = LOOPS[cell.loop](_model(cell, device), cell.run.config, device)
    return _timed(advance, cell, device)


def grid(cell, device):
    """Speed and memory of one engine: the allocator's peak of a plain step, then what the ledger says it was."""
    from labsupport.gpu.training_loops import by_train_epoch
    from labsupport.measure.agreement import moments_of
    from labsupport.measure.ledger import allocator_gap, other_bytes
    from labsupport.trainer import DeepSpeedTrainer

    base = other_bytes()
    trainer = DeepSpeedTrainer(_model(cell, device), cell.run.config)
    batch = next(iter(_batches(cell, 1)))
    # The moments first: "after initialisation" is before Adam has made its states.
    moments = moments_of(trainer, {name: tensor.to(device) for name, tensor in batch.items()}, base)
    gap = allocator_gap(trainer.engine)
    return moments | {"allocator": gap} | _timed(by_train_epoch(trainer), cell, device)


def loops(cell, device):
    """The trainer beside a loop written by hand, over one engine, in turn: seconds a step of every window."""
    from labsupport.gpu.training_loops import by_hand, by_train_epoch
    from labsupport.trainer import DeepSpeedTrainer

    trainer = DeepSpeedTrainer(_model(cell, device), cell.run.config)

    def by_train_step(batches):
        for batch in batches:
            trainer.train_step(batch)

    ways = {"by hand": by_hand(trainer.engine), "train_epoch": by_train_epoch(trainer), "train_step": by_train_step}
    batches, order = _batches(cell, cell.steps), list(ways)
    seconds = {name: [] for name in ways}
    for window in range(WARM_UP_WINDOWS + cell.windows):
        first = window % len(order)
        for name in order[first:] + order[:first]:
            taken = _seconds(lambda name=name: ways[name](batches), device)
            if window >= WARM_UP_WINDOWS:
                seconds[name].append(taken / len(batches))
    by_hand_seconds = seconds["by hand"]
    ratios = {
        name: statistics.median(one / hand for one, hand in zip(each, by_hand_seconds, strict=True))
        for name, each in seconds.items()
    }
    return {"seconds_per_step": seconds, "median_ratio_to_by_hand": ratios}


def hugging_face(cell, device):
    """The Hugging Face Trainer with the same config and batch: seconds a step of every window."""
    import tempfile

    import transformers

    from labsupport.config import config_precision
    from labsupport.corpus import ByteWindows
    from labsupport.engine import choose_adam
    from labsupport.settings import read_settings

    config = copy.deepcopy(cell.run.config)
    choose_adam(config, read_settings(config, cell.world_size))
    settings, precision = config["optimizer"]["params"], config_precision(config)
    marks, steps = [], cell.steps

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, _arguments, state, _control, **_):
            if state.global_step % steps == 0:
                _wait(device)
                marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = transformers.TrainingArguments(
            output_dir=folder, deepspeed=config, max_steps=steps * (WARM_UP_WINDOWS + cell.windows),
            per_device_train_batch_size=cell.micro_batch_size, learning_rate=settings["lr"],
            weight_decay=settings["weight_decay"], max_grad_norm=config["gradient_clipping"],
            bf16=precision == "bf16", fp16=precision == "fp16", use_cpu=device.type == "cpu", report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, log_level="error",
        )  # fmt: skip
        data = ByteWindows(cell.run.sequence_length)
        model = _model(cell, device)
        transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Clock()]).train()
    seconds = [(after - before) / steps for before, after in itertools.pairwise(marks)]
    return {"seconds_per_step": seconds[WARM_UP_WINDOWS - 1 :]}


def communication(cell, device):
    """Speed on several ranks, the message bytes of a step, and the share of it in which NCCL kernels run."""
    import torch

    from labsupport.gpu.training_loops import by_train_epoch
    from labsupport.measure.collectives import measured_collectives
    from labsupport.trainer import DeepSpeedTrainer

    trainer = DeepSpeedTrainer(_model(cell, device), cell.run.config)
    timed = _timed(by_train_epoch(trainer), cell, device)
    batch = next(iter(_batches(cell, 1)))
    collectives = measured_collectives(trainer.engine, lambda: trainer.train_step(batch))
    share = None
    if device.type == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            taken = _seconds(lambda: trainer.train_step(batch), device)
        kernels = (event for event in profile.key_averages() if event.key.startswith("nccl"))
        share = sum(event.self_device_time_total for event in kernels) / 1e6 / taken
    return timed | {"collectives": collectives, "nccl_share_of_step": share}


KINDS = {
    "environment": environment,
    "ops": ops,
    "memory": memory,
    "speed": speed,
    "grid": grid,
    "loops": loops,
    "hugging face": hugging_face,
    "communication": communication,
}


def measure(cell, nvme_path=None):
    """Measure one Cell on this rank and return the result as plain data; every rank must call it.

    nvme_path: the folder for what the cell's config puts on NVMe.
    """
    import torch
    from deepspeed.accelerator import get_accelerator

    from labsupport.engine import start_distributed

    start_distributed()
    if nvme_path and cell.run:
        cell = cell._replace(run=cell.run._replace(config=with_nvme_path(cell.run.config, nvme_path)))
    if get_accelerator().device_name() != "cuda":
        return KINDS[cell.kind](cell, torch.device("cpu"))
    device = torch.device("cuda", torch.cuda.current_device())
    if limit := cell.gpu_memory_limit_bytes:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), device)
    # TF32 would make fp32 cells fast and inexact: they are there to be fp32.
    torch.backends.cuda.matmul.allow_tf32 = False
    return KINDS[cell.kind](cell, device)


def _model(cell, device):
    """The cell's model; made on the GPU, where random numbers are quick, unless it might not fit there."""
    import torch
    from transformers.integrations import HfDeepSpeedConfig

    from labsupport.config import zero_stage
    from labsupport.models import build_model, checkpoint_activations, compile_layers

    tight = cell.gpu_memory_limit_bytes
    # While this lives, transformers partitions each layer as soon as it is made (deepspeed.zero.Init): a model that is
    # larger than the GPU, and than the host, never exists whole.
    partitioned = HfDeepSpeedConfig(cell.run.config) if tight and zero_stage(cell.run.config) == 3 else None
    with torch.device("cpu" if tight else device):
        model = build_model(cell.run.shape)
    del partitioned
    if cell.run.activation_checkpointing:
        checkpoint_activations(model)
    if cell.compile:
        compile_layers(model, cell.compile)
    return model


def _batches(cell, count):
    import torch

    from labsupport.corpus import endless_batches, text_loader

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    loader = text_loader(cell.micro_batch_size, rank, world_size, cell.run.sequence_length)
    return list(itertools.islice(endless_batches(loader), count))


def _timed(advance, cell, device):
    """Train windows of steps and return their seconds, the speed that follows, and the allocator's bytes."""
    import torch

    batches, losses, seconds = _batches(cell, cell.steps), [], []
    on_gpu = device.type == "cuda"
    for window in range(WARM_UP_WINDOWS + cell.windows):
        if window == WARM_UP_WINDOWS and on_gpu:
            torch.cuda.reset_peak_memory_stats()
        taken = _seconds(lambda: losses.append(float(advance(batches))), device)
        if window >= WARM_UP_WINDOWS:
            seconds.append(taken / len(batches))
    samples = cell.micro_batch_size * torch.distributed.get_world_size() / statistics.median(seconds)
    return {
        "seconds_per_step": seconds,
        "samples_per_second": samples,
        "tokens_per_second": samples * cell.run.sequence_length,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "reserved_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
        "resting_bytes": torch.cuda.memory_allocated() if on_gpu else None,
        "parameters": cell.run.shape.parameters,
    }


def _seconds(call, device):
    import torch

    torch.distributed.barrier()
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device):
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _dtype(precision):
    from labsupport.gpu.training_loops import DTYPES

    return DTYPES[precision]


def _copy_rates(device, size):
    """Bytes a second between host and GPU, from ordinary and from pinned memory: the best of ten."""
    import torch

    there, rates = torch.empty(size, dtype=torch.uint8, device=device), {}
    for name, pinned in (("ordinary", False), ("pinned", True)):
        here = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).fill_(1)  # untouched memory is not there yet
        for way, target, source in ((f"{name} host to GPU", there, here), (f"GPU to {name} host", here, there)):
            rates[way] = size / min(_seconds(functools.partial(target.copy_, source), device) for _ in range(10))
    return rates


def main(cell_file, result_file, nvme_path=None):
    """Measure the cell of a file, write the result, and return the exit status."""
    with open(cell_file) as file:
        cell = Cell.from_dict(json.load(file))
    entry = {"cell": cell.as_dict()}
    try:
        entry["measured"] = measure(cell, nvme_path)
    except Exception as error:  # a cell of DeepSpeed, PyTorch or transformers may fail in any way
        entry |= {"error": one_sentence(error), OUT_OF_MEMORY: is_out_of_memory(error)}
    if "error" in entry or int(os.environ.get("RANK", "0")) == 0:
        with open(result_file, "a") as file:
            file.write(json.dumps(entry) + "\n")
    if "error" in entry:
        print(f"error: {entry['error']}", file=sys.stderr, flush=True)
        return 1
    return 0


# What a full GPU or host says where PyTorch has no class for it: CUDA's own calls, cuBLAS, NCCL, and malloc.
FULL = re.compile("out of memory|CUBLAS_STATUS_ALLOC_FAILED|can't allocate memory", re.IGNORECASE)


def is_out_of_memory(error):
    """Whether a GPU or the host was full: said by the error itself, or by the one that our sentence was made of."""
    return any(isinstance(each, MemoryError) or FULL.search(str(each)) for each in (error, error.__cause__))


def one_sentence(error):
    """Return what went wrong in one line: a LabError's own sentence, or another error's name and first line."""
    if isinstance(error, LabError):
        return str(error)
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first[:300]}"


if __name__ == "__main__":
    # Run as a file this module is called __main__; a rank ends as the program's ranks do.
    from labsupport.engine import end_rank

    end_rank(main(*sys.argv[1:]))
