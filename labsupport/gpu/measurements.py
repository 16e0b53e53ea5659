"""How each kind of cell is measured, on the ranks that are up: `measure(cell)`.

Every function of KINDS takes a Cell and the device of this rank, and every rank calls it.
"""

import contextlib
import copy
import functools
import io
import itertools
import os
import statistics
import time

from labsupport.gpu.cells import PRECISIONS, WARM_UP_WINDOWS
from labsupport.measure.agreement import with_nvme_path


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
