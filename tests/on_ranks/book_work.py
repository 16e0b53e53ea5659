"""What the tests of the book's examples run on live ranks; `folder` is book/examples."""

import torch


def train_with_both(folder):
    """The losses of five steps with DeepSpeed and with FSDP2, and the dtypes that FSDP2 keeps."""
    import itertools
    import sys
    import warnings

    sys.path.insert(0, folder)
    warnings.simplefilter("ignore")
    import fsdp2
    import zero3
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from labsupport.corpus import text_loader
    from labsupport.models import build_model

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    batches = list(itertools.islice(text_loader(4, rank, world_size), 5))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    mixed = fully_shard(build_model("tiny"), mp_policy=policy)
    half = fully_shard(build_model("tiny").to(torch.bfloat16))
    sys.path.remove(folder)
    return {
        "zero3": zero3.train(build_model("tiny"), batches, world_size),
        "fsdp2": fsdp2.train(build_model("tiny"), batches),
        "kept with a policy": str({p.dtype for p in mixed.parameters()}),
        "kept from a bf16 model": str({p.dtype for p in half.parameters()}),
    }


def naive_and_whole(folder):
    """How far the sharded linear layer is from the whole one, output and gradients."""
    import sys

    sys.path.insert(0, folder)
    import naive_shard

    sys.path.remove(folder)
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    whole = torch.randn(4, 3, requires_grad=True)
    inputs = torch.randn(world_size, 5, 3)
    my_rows = whole.detach().chunk(world_size)[rank].clone().requires_grad_()
    x = inputs[rank].clone().requires_grad_()
    y = naive_shard.ShardedLinear.apply(x, my_rows)
    y.square().sum().backward()
    expected = inputs[rank].clone().requires_grad_()
    expected_y = expected @ whole.T
    expected_y.square().sum().backward()
    mean = sum((part @ whole.T).square().sum() for part in inputs) / world_size
    (mean_grad,) = torch.autograd.grad(mean, whole)
    gaps = (y - expected_y, x.grad - expected.grad, my_rows.grad - mean_grad.chunk(world_size)[rank])
    return max(float(gap.detach().abs().max()) for gap in gaps)
