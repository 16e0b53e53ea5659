"""What DeepSpeed does with the same weights and gradients: what the answers of lab 10 are held against."""

import functools

from labsupport.exercises.lab_10_build_zero.worlds import new_tensors

LR = 0.01
OPTIMIZERS = {
    "adam": {"type": "Adam", "params": {"lr": LR, "torch_adam": True, "adam_w_mode": False}},
    "sgd": {"type": "SGD", "params": {"lr": 1.0}},
}


def small_config(stage, optimizer, **more):
    """Return a config for one micro-batch of one sample a step, without clipping."""
    zero = {"stage": stage, "reduce_bucket_size": 10_000}
    zero |= {"stage3_prefetch_bucket_size": 0} if stage == 3 else {"allgather_bucket_size": 10_000}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "optimizer": optimizer,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
        **more,
    }


def with_gradients(weights):
    """Return a module of these weights whose gradients are the tensors that its forward pass is given."""
    import torch

    class Given(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList([torch.nn.Parameter(each.clone()) for each in weights])

        def forward(self, *gradients):
            return sum((w * g.to(w.dtype)).sum() for w, g in zip(self.weights, gradients, strict=True))

    return Given()


@functools.cache
def trained(shapes, stage, optimizer, steps, seed, bf16=False):
    """Return the weights after `steps` steps of DeepSpeed on all ranks, with gradients() of each; one of OPTIMIZERS."""
    import deepspeed
    import torch

    more = {"bf16": {"enabled": True}} if bf16 else {}
    model = with_gradients(first_weights(shapes, seed))
    engine = deepspeed.initialize(model=model, config=small_config(stage, OPTIMIZERS[optimizer], **more))[0]
    rank = torch.distributed.get_rank()
    for step in range(steps):
        engine.backward(engine(*gradients(shapes, seed, step, rank)))
        engine.step()
    weights = [each.detach().clone() for each in engine.module.parameters()]
    engine.destroy()
    return weights


def first_weights(shapes, seed):
    """Return the weights that training begins with."""
    return new_tensors(shapes, seed, 7)


def gradients(shapes, seed, step, rank):
    """Return one rank's gradients in one step."""
    return new_tensors(shapes, seed, 11 + step, 1 + rank)


def mean_gradients(shapes, seed, step, ranks):
    """Return the mean of all ranks' gradients in one step."""
    import torch

    of_ranks = [gradients(shapes, seed, step, rank) for rank in range(ranks)]
    return [torch.stack(same).mean(0) for same in zip(*of_ranks, strict=True)]
