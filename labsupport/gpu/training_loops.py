"""The same training step made six ways, to be timed beside each other: plain PyTorch, DDP, FSDP2, DeepSpeed.

    advance = LOOPS["FSDP2"](model, config, device)
    loss = advance(batches)          # trains on every batch and returns the last loss, still on the device

Each takes the model whole, in fp32, and computes in the config's precision. The optimizer is AdamW with fp32 master
weights everywhere, fused where the device has it, and the gradient norm is clipped as the config says. None adds a wait
for the device to what its framework's own step waits for.
"""

import torch

from labsupport.config import config_precision
from labsupport.models import layers_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def plain_torch(model, config, device):
    """One process: fp32 weights, autocast for the forward pass, PyTorch's fused AdamW, a scaler for fp16."""
    model = model.to(device)
    return _autocast_loop(model, model, config, device)


def data_parallel(model, config, device):
    """PyTorch's DistributedDataParallel: the plain loop, with gradients averaged over the ranks."""
    ranks = {"device_ids": [device.index]} if device.type == "cuda" else {}
    model = model.to(device)
    wrapped = torch.nn.parallel.DistributedDataParallel(model, **ranks, gradient_as_bucket_view=True)
    return _autocast_loop(model, wrapped, config, device)


def _autocast_loop(model, wrapped, config, device):
    precision = config_precision(config)
    optimizer, scaler = _adamw(model, config, device), torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    clip = config["gradient_clipping"]

    def advance(batches):
        for batch in batches:
            with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
                loss = wrapped(**_on(device, batch)).loss
            scaler.scale(loss).backward()
            if clip:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return loss.detach()

    return advance


def fully_sharded(model, config, device):
    """FSDP2: every layer a unit, fp32 shards, computing and averaging in bf16; fp16 would need a scaler of its own."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    dtype = DTYPES[config_precision(config)]
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype)
    mesh = torch.distributed.init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    model = model.to(device)
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    optimizer, clip = _adamw(model, config, device), config["gradient_clipping"]

    def advance(batches):
        for batch in batches:
            loss = model(**_on(device, batch)).loss
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return advance


def deepspeed_by_hand(model, config, device):
    """The loop of DeepSpeed's own getting-started page: engine, backward, step."""
    from labsupport.engine import initialize_deepspeed

    return by_hand(initialize_deepspeed(model, config)[0])


def by_hand(engine):
    """The same for an engine that exists."""

    def advance(batches):
        for batch in batches:
            loss = engine(**_on(engine.device, batch)).loss
            engine.backward(loss)
            engine.step()
        return loss.detach()

    return advance


def trainer(model, config, device):
    """The course's DeepSpeedTrainer: an epoch over the batches, whose loss is read every ten of them."""
    from labsupport.trainer import DeepSpeedTrainer

    return by_train_epoch(DeepSpeedTrainer(model, config))


def by_train_epoch(trainer):
    """The same for a trainer that exists."""
    return lambda batches: torch.tensor(trainer.train_epoch(batches, progress=False))


LOOPS = {
    "plain PyTorch": plain_torch,
    "DDP": data_parallel,
    "FSDP2": fully_sharded,
    "DeepSpeed by hand": deepspeed_by_hand,
    "DeepSpeedTrainer": trainer,
}


def _adamw(model, config, device):
    settings = config["optimizer"]["params"]
    options = {"lr": settings["lr"], "weight_decay": settings["weight_decay"]}
    return torch.optim.AdamW(model.parameters(), fused=device.type == "cuda", **options)


def _on(device, batch):
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
