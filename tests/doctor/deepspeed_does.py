"""What the real DeepSpeed does with each config of truths.py: one process, one CPU rank, a model of 30 parameters.

    python tests/doctor/deepspeed_does.py truths.json

It is run once for all cases, and writes what it saw, by rule.
"""

import contextlib
import copy
import gc
import io
import json
import logging
import os
import sys
import tempfile
import types
import warnings
from pathlib import Path

LARGEST_SEEN_STEPS = 10


def main(target):
    import torch

    warnings.filterwarnings("ignore")
    import deepspeed

    deepspeed.init_distributed(verbose=False)
    accelerator = deepspeed.accelerator.get_accelerator()
    accelerator._name = NotTheHost(accelerator._name)
    gc.collect()
    gc.freeze()  # stage 3 collects often, and what is imported need not be looked at each time
    sys.path.insert(0, str(Path(__file__).parent))
    import truths

    found = {}
    for code, cases in truths.TRUTHS.items():
        found[code] = [outcome(deepspeed, torch, case) for case in cases]
    Path(target).write_text(json.dumps(found))


def outcome(deepspeed, torch, case):
    """Return {"when", "error"} of what was refused, or {"seen": ...}."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            if case.kind == "same":
                whole, without = copy.deepcopy(case.config), copy.deepcopy(case.config)
                block = without
                for step in case.about[:-1]:
                    block = block[step]
                del block[case.about[-1]]
                return {
                    "seen": _fingerprint_of(deepspeed, torch, whole, case)
                    == _fingerprint_of(deepspeed, torch, without, case)
                }
            parsed, engine, more = run(deepspeed, torch, copy.deepcopy(case.config), case)
            return {"seen": SEE[case.about](parsed, engine, more) if case.kind == "seen" else None}
        except Refused as error:
            return {"when": error.when, "error": str(error)}


FINGERPRINTS = {}


def _fingerprint_of(deepspeed, torch, config, case):
    """Configs that are compared with many are run once."""
    key = json.dumps(config, sort_keys=True)
    if key not in FINGERPRINTS:
        FINGERPRINTS[key] = fingerprint(*run(deepspeed, torch, config, case))
    return FINGERPRINTS[key]


class Refused(Exception):
    def __init__(self, when, cause):
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.when = when


@contextlib.contextmanager
def at(when):
    try:
        yield
    except (Exception, Warning) as error:
        raise Refused(when, error) from error


def run(deepspeed, torch, config, case):
    """Return (parsed config, engine or None, what else was seen) after two steps; raises Refused."""
    import deepspeed.runtime.config as parser
    from deepspeed.runtime import torch_autocast

    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    deepspeed.utils.logger.setLevel(logging.WARNING)
    ranks = case.options.get("world_size") or 1
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(config, str):
            path = Path(folder, "ds_config.json")
            path.write_text(config)
            config = str(path)
        elif "NOWHERE" in json.dumps(config):
            config = json.loads(json.dumps(config).replace("NOWHERE", f"{folder}/nvme"))
        with at("parse"), ranks_are(parser, ranks):
            parsed = parser.DeepSpeedConfig(copy.deepcopy(config))
        if isinstance(config, str) or (case.kind == "seen" and case.about in PARSED):
            return parsed, None, None
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        if case.about == "dtype kept":
            model = model.bfloat16()
        with at("initialize"):
            engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
        more = types.SimpleNamespace(lr=[], logged="", clipped=False, nvme=Path(folder, "nvme"))
        has_optimizer = bool(parsed.optimizer_name)
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        deepspeed.utils.logger.addHandler(handler)
        try:
            for _ in range(LARGEST_SEEN_STEPS if "lr after" in str(case.about) else 2 if has_optimizer else 0):
                with at("step"):
                    steps(torch, engine, more)
        finally:
            deepspeed.utils.logger.removeHandler(handler)
        more.logged, more.nvme = stream.getvalue(), more.nvme.exists()
        return parsed, engine, more


def steps(torch, engine, more):
    before = [p.detach().clone() for p in engine.module.parameters()]
    inputs = 100 * torch.ones(1, 4, dtype=before[0].dtype)
    loss = engine(inputs).float().pow(2).mean()
    engine.backward(loss)
    if not engine.zero_optimization() and before[0].dtype == torch.float32:
        whole = torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters()])
        real, engine.zero_grad = engine.zero_grad, lambda: None  # the clipped gradients are looked at
        real_step = engine.optimizer.step

        def step(*arguments, **options):
            left = torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters()])
            more.clipped = bool(left < 0.5 * whole)
            return real_step(*arguments, **options)

        engine.optimizer.step = step
        engine.step()
        engine.optimizer.step, engine.zero_grad = real_step, real
    else:
        engine.step()
    more.loss = float(loss.detach())
    more.lr.append(engine.get_lr())


@contextlib.contextmanager
def ranks_are(parser, ranks):
    real = parser.dist
    parser.dist = types.SimpleNamespace(get_rank=lambda: 0, get_world_size=lambda *_: ranks)
    try:
        yield
    finally:
        parser.dist = real


PLAIN = (bool, int, float, str, type(None))
# Of the parsed config: what stands there, whether anything reads it or not.
WRITTEN = {"_param_dict", "disable_allgather", "pipeline", "vocabulary_size", "zero_config", "aio_config",
           "activation_checkpointing_config", "buffer_dtype", "_offload_boundary_param_ids"}  # fmt: skip


def fingerprint(parsed, engine, more):
    """Everything simple that the parsed config, the engine, its optimizers and its scheduler hold, and the loss."""
    found = {"loss": more.loss if hasattr(more, "loss") else None, "lr": more.lr}
    for name, thing in (
        ("config", parsed),
        ("engine", engine),
        ("optimizer", engine.optimizer),
        ("basic optimizer", getattr(engine, "basic_optimizer", None)),
        ("inner optimizer", getattr(engine.optimizer, "optimizer", None)),
        ("scheduler", engine.lr_scheduler),
        ("offload", getattr(engine.optimizer, "parameter_offload", None)),
    ):
        found[name, "class"] = type(thing).__name__
        for key, value in vars(thing).items() if thing is not None else ():
            if isinstance(value, PLAIN) and key not in WRITTEN and "time" not in key:
                found[name, key] = value
    return found


class NotTheHost(str):
    """The accelerator's name, which on a processor is the host's too, told apart from it."""


def groups_on_the_device(parsed, engine, more):
    return sum(isinstance(device, NotTheHost) for device in engine.optimizer.subgroup_to_device.values())


def lr_after_two(parsed, engine, more):
    return "below its largest" if more.lr[1][0] < 0.9 * engine.lr_scheduler.max_lrs[0] else "its largest"


def precision(parsed, *_):
    return "fp16" if parsed.float16_config.enabled else "bf16" if parsed.bfloat16_config.enabled else "fp32"


def devices(parsed, *_):
    blocks = (parsed.zero_config.offload_optimizer, parsed.zero_config.offload_param)
    return [
        str(block.device.value if hasattr(block.device, "value") else block.device) if block else "none"
        for block in blocks
    ]


PARSED = {
    "parsed",
    "parsed stage",
    "parsed bucket",
    "parsed batch",
    "precision",
    "offload",
    "prefetch",
    "dynamic scale",
}
SEE = {
    "parsed": lambda parsed, *_: parsed.train_batch_size == 1,
    "parsed stage": lambda parsed, *_: int(parsed.zero_optimization_stage),
    "parsed bucket": lambda parsed, *_: int(parsed.zero_config.reduce_bucket_size),
    "parsed batch": lambda parsed, *_: [
        parsed.train_batch_size, parsed.train_micro_batch_size_per_gpu, parsed.gradient_accumulation_steps],
    "precision": precision,
    "offload": devices,
    "prefetch": lambda parsed, *_: int(parsed.zero_config.prefetch_bucket_size),
    "dynamic scale": lambda parsed, *_: parsed.float16_config.loss_scale == 0,
    "dtype kept": lambda parsed, engine, more: str(next(engine.module.parameters()).dtype),
    "autocast": lambda parsed, engine, more: bool(engine.torch_autocast_enabled()),
    "messages": lambda parsed, engine, more: str(engine.communication_data_type),
    "optimizer class": lambda parsed, engine, more: type(engine.optimizer).__name__,
    "basic optimizer": lambda parsed, engine, more: type(engine.basic_optimizer).__name__,
    "scheduler": lambda parsed, engine, more: type(engine.lr_scheduler).__name__,
    "nvme folder": lambda parsed, engine, more: more.nvme,
    "groups on the device": groups_on_the_device,
    "pinned": lambda parsed, engine, more: engine.optimizer.cpu_offload_pin_memory,
    "lr": lambda parsed, engine, more: engine.get_lr(),
    "clipped": lambda parsed, engine, more: more.clipped,
    "warmup type": lambda parsed, engine, more: engine.lr_scheduler.warmup_type,
    "largest lr": lambda parsed, engine, more: engine.lr_scheduler.max_lrs,
    "lr after 2": lr_after_two,
    "lr after 10": lambda parsed, engine, more: [round(each, 2) for each in more.lr[9]],
    "bucket elements": lambda parsed, engine, more: max(
        bucket.buffer.numel() for bucket in engine.optimizer.ipg_buckets.values()),
    "printed": lambda parsed, engine, more: bool(more.logged.strip()),
    "timers": lambda parsed, engine, more: engine.wall_clock_breakdown(),
    "profiler": lambda parsed, engine, more: hasattr(engine, "flops_profiler"),
    "sanity checks": lambda parsed, engine, more: engine.is_sanity_checks_enabled(),
}  # fmt: skip


if __name__ == "__main__":
    from labsupport.machine.probes import free_port

    os.environ.update(
        DS_ACCELERATOR="cpu",
        RANK="0",
        LOCAL_RANK="0",
        WORLD_SIZE="1",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
    )
    main(sys.argv[1])
