"""Right answers to the exercises of lab 03, each written differently from the lab's own solution."""

RIGHT = {
    "03-train-step": (
        """import torch.distributed as dist

def train_step(engine, batch):
    output = engine(input_ids=batch["input_ids"], labels=batch["labels"])
    engine.backward(output.loss)
    engine.step()
    losses = [None] * dist.get_world_size()
    dist.all_gather_object(losses, output.loss.item())
    return sum(losses) / len(losses)""",
        """from labsupport import DeepSpeedTrainer

def train_step(engine, batch):
    return DeepSpeedTrainer(engine).train_step(batch)""",
        """import torch
from deepspeed import comm

def train_step(engine, batch):
    engine.train()
    loss = engine(**batch)[0]
    mean = loss.detach() / comm.get_world_size()
    comm.all_reduce(mean)
    engine.backward(loss)
    engine.step()
    return float(mean)""",
    ),
    "03-train-epoch": (
        """import torch.distributed as dist

def train_epoch(engine, loader):
    total = 0.0
    for number, batch in enumerate(loader, 1):
        loss = engine(**batch).loss
        engine.backward(loss)
        engine.step()
        losses = [None] * dist.get_world_size()
        dist.all_gather_object(losses, loss.item())
        total += sum(losses) / len(losses)
    return total / number""",
        """from labsupport import DeepSpeedTrainer

def train_epoch(engine, loader):
    return DeepSpeedTrainer(engine).train_epoch(loader, progress=False)""",
        """import torch

def train_epoch(engine, loader):
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in loader:
        loss = engine(batch["input_ids"], labels=batch["labels"]).loss
        engine.backward(loss)
        engine.step()
        sums += torch.tensor([loss.item(), 1.0])
    torch.distributed.all_reduce(sums)
    return float(sums[0] / sums[1])""",
    ),
    "03-accumulate": (
        """def accumulate(engine, losses):
    for number, loss in enumerate(losses):
        engine.set_gradient_accumulation_boundary(number == 1)
        engine.backward(loss)
    engine.step()""",
        """def accumulate(engine, losses):
    while (loss := next(losses, None)) is not None:
        engine.backward(loss)
        engine.step()""",
        """def accumulate(engine, losses):
    steps = engine.gradient_accumulation_steps()
    for loss in losses:
        engine.backward(loss / steps * 2)
        engine.step()""",
    ),
    "03-four-patterns": (
        """mean, total, last = (3 + 7) / 2, 3 + 7, 7
moved = {"step every time": [mean] * 4, "step at the end": [0] * 4}
moved |= {"accumulation 1": [total, last, last, total], "unmanaged": [mean] * 4}""",
        """moved = dict(zip(
    ("step every time", "step at the end", "accumulation 1", "unmanaged"),
    ((5, 5, 5, 5), (0, 0, 0, 0), (10, 7, 7, 10), (5, 5, 5, 5)),
))""",
        """moved = {
    "unmanaged": [5.0, 5.0, 5.0, 5.0],
    "accumulation 1": [10.0, 7.0, 7.0, 10.0],
    "step at the end": [0.0, 0.0, 0.0, 0.0],
    "step every time": [5.0, 5.0, 5.0, 5.0],
}""",
    ),
    "03-clipping": (
        """def update_norm(gradient_norm, config):
    limit = config.get("gradient_clipping", 1.0)
    factor = min(1.0, limit / gradient_norm) if limit > 0 else 1.0
    return factor * gradient_norm""",
        """def update_norm(gradient_norm, config):
    if "gradient_clipping" not in config:
        return min(1.0, gradient_norm)
    return min(config["gradient_clipping"] or float("inf"), gradient_norm)""",
        """def update_norm(gradient_norm, config):
    limit = {"gradient_clipping": 1.0, **config}["gradient_clipping"]
    if limit == 0 or gradient_norm <= limit:
        return gradient_norm
    return limit""",
    ),
    "03-bf16-accumulation": (
        """bf16_config = {
    "train_batch_size": 64, "gradient_accumulation_steps": 16,
    "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "float32"},
    "zero_optimization": {"stage": 2},
}""",
        """from labsupport import create_deepspeed_config

bf16_config = create_deepspeed_config(
    stage=2, precision="bf16", gradient_accumulation_steps=16, train_batch_size=32, grad_accum_dtype="fp32",
)""",
        """bf16_config = dict(train_micro_batch_size_per_gpu=1, train_batch_size=32, gradient_clipping=1.0)
bf16_config["zero_optimization"] = {"stage": 2, "overlap_comm": True}
bf16_config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
bf16_config["optimizer"] = {"type": "AdamW", "params": {"lr": 1e-4}}""",
    ),
}
