"""Exercise 10-clip: answers that are known to be wrong, by their mistake, and right ones."""


def _answer(squares="sum(g.float().square().sum() for g in gradients)", add="dist.all_reduce(squares)",
            norm="squares.sqrt().item()", scale="min(1.0, max_norm / (norm + 1e-6))",
            apply="g.mul_(scale)"):  # fmt: skip
    return f"""
def clip_sharded(gradients, max_norm):
    squares = {squares}
    {add}
    norm = {norm}
    scale = {scale}
    for g in gradients:
        {apply}
    return norm"""


WRONG = {
    "own norm": (
        _answer(add="pass"),
        """
def clip_sharded(gradients, max_norm):
    weights = [torch.zeros_like(g) for g in gradients]
    for w, g in zip(weights, gradients):
        w.grad = g
    return torch.nn.utils.clip_grad_norm_(weights, max_norm).item()""",
    ),
    "sum of norms": (_answer(squares="torch.cat([g.float() for g in gradients]).norm()", norm="squares.item()"),),
    "overflow": (_answer(squares="sum(g.square().sum() for g in gradients).float()"),),
    "another norm": (
        _answer(add="dist.all_reduce(squares, dist.ReduceOp.MAX)"),
        _answer(norm="(squares / dist.get_world_size()).sqrt().item()"),
        _answer(squares="sum(g.float().norm() for g in gradients)"),
    ),
    "always": (_answer(scale="max_norm / (norm + 1e-6)"),),
    "below": (_answer(scale="min(0.5, max_norm / (norm + 1e-6))"),),
    "untouched": (_answer(apply="g = g * scale"), _answer(apply="g.data = g.data * scale")),
    "another scale": (_answer(scale="min(1.0, max_norm / (norm**2 + 1e-6))"),),
    "sends gradients": (
        """
def clip_sharded(gradients, max_norm):
    mine = torch.cat([g.float() for g in gradients])
    whole = torch.empty(len(mine) * dist.get_world_size())
    dist.all_gather_into_tensor(whole, mine)
    norm = whole.norm().item()
    for g in gradients:
        g.mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm""",
    ),
    "not everywhere": (
        """
def clip_sharded(gradients, max_norm):
    norms = [torch.zeros(()) for _ in range(min(2, dist.get_world_size()))]
    dist.all_gather(norms, torch.cat([g.float() for g in gradients]).norm())
    norm = torch.stack(norms).norm().item()
    for g in gradients:
        g.mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm""",
    ),
    "borrowed": (
        """
from deepspeed.runtime.utils import clip_grad_norm_

def clip_sharded(gradients, max_norm):
    return clip_grad_norm_(gradients, max_norm)""",
    ),
}

RIGHT = (
    _answer(),
    """
import math

def clip_sharded(gradients, max_norm):
    told = [None] * dist.get_world_size()
    dist.all_gather_object(told, sum(float(g.double().pow(2).sum()) for g in gradients))
    norm = math.sqrt(sum(told))
    if norm > max_norm:
        for g in gradients:
            g *= max_norm / norm
    return norm""",
    """
def clip_sharded(gradients, max_norm):
    norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients])
    squares = norms.square()
    dist.all_reduce(squares)
    total = squares.sum().sqrt()
    for g in gradients:
        g.copy_(g.double() * (max_norm / total.clamp(min=max_norm)))
    return total""",
)
