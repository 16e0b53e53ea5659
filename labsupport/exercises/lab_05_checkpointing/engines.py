"""What the checks of lab 05 save and resume: small engines, their training, and a folder for all ranks."""

import contextlib
import shutil
import tempfile

SAMPLES = 4  # of one step, over all ranks


def adam_config(stage, **more):
    zero = {"stage": stage, "reduce_bucket_size": 10_000}
    zero |= {"stage3_param_persistence_threshold": 0} if stage == 3 else {"allgather_bucket_size": 10_000}
    return {
        "train_batch_size": SAMPLES,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01, "torch_adam": True}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10, "warmup_type": "linear"}},
        "zero_optimization": zero,
        **more,
    }


def new_engine(config, seed=0, mpu=None):
    import deepspeed
    import torch

    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    return deepspeed.initialize(model=model, config=config, mpu=mpu)[0]


def train_steps(engine, first, last, rank=None, ranks=None):
    """Train the steps from `first` up to, not including, `last`; each has samples of its own."""
    import torch
    import torch.distributed as dist

    rank, ranks = (dist.get_rank(), dist.get_world_size()) if rank is None else (rank, ranks)
    for step in range(first, last):
        batch = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(step))
        engine.backward((engine(batch.chunk(ranks)[rank]) - 1).pow(2).mean())
        engine.step()


def flat_weights(engine):
    import deepspeed
    import torch

    parameters = list(engine.module.parameters())
    if not engine.zero_optimization_partition_weights():
        return torch.cat([p.detach().flatten() for p in parameters])
    with deepspeed.zero.GatheredParameters(parameters):
        return torch.cat([p.detach().flatten() for p in parameters])


def apart(weights, others):
    return (weights - others).abs().max().item()


@contextlib.contextmanager
def common_folder():
    """A new folder, the same one on all ranks; it is removed afterwards."""
    import torch.distributed as dist

    path = [tempfile.mkdtemp(prefix="answer-") if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(path)
    try:
        yield path[0]
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(path[0], ignore_errors=True)


@contextlib.contextmanager
def kept_engines():
    """A function that makes engines; all of them are destroyed afterwards."""
    made = []

    def make(*arguments, **named):
        made.append(new_engine(*arguments, **named))
        return made[-1]

    try:
        yield make
    finally:
        for engine in made:
            with contextlib.suppress(Exception):
                engine.destroy()
