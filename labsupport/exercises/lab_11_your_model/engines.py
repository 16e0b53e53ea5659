"""What the checks of lab 11 train: a small model with LoRA by hand, at stage 3 in fp32, so that numbers are exact."""

import functools

WIDTH, RANK, SCALE, LAYERS = 24, 4, 0.5, 3


def small_config(stage, **more):
    zero = {"stage": stage, "reduce_bucket_size": 10_000}
    if stage == 3:
        whole_for_long = ("stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_prefetch_bucket_size")
        zero |= {"stage3_param_persistence_threshold": 0} | dict.fromkeys(whole_for_long, 0)
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01, "weight_decay": 0.0, "torch_adam": True}},
        "zero_optimization": zero,
        **more,
    }


@functools.cache
def lora_linear():
    """Return the class of a frozen linear layer with two trained matrices beside it."""
    import torch

    class LoraLinear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base = torch.nn.Linear(WIDTH, WIDTH).requires_grad_(False)
            self.lora_A = torch.nn.Parameter(0.2 * torch.randn(RANK, WIDTH))
            self.lora_B = torch.nn.Parameter(0.2 * torch.randn(WIDTH, RANK))
            self.scale = SCALE

        def forward(self, rows):
            return self.base(rows) + self.scale * rows @ self.lora_A.T @ self.lora_B.T

    return LoraLinear


def lora_engine():
    """Return an engine at stage 3 whose LoRA layers have made two steps; nothing of it is whole between the passes."""
    import deepspeed
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(*(lora_linear()() for _ in range(LAYERS)))
    engine = deepspeed.initialize(model=model, config=small_config(3))[0]
    for _ in range(2):
        engine.backward(engine(torch.ones(2, WIDTH)).pow(2).mean())
        engine.step()
    return engine


def whole_weights(engine):
    """Return {name: the whole parameter} on every rank; every rank has to call it."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        return {name: p.detach().clone() for name, p in engine.module.named_parameters()}


def apart(one, other):
    return (one.float() - other.float()).abs().max().item()
