"""Exercise 10-average: answers that are known to be wrong, by their mistake, and right ones."""


def _each(*statements):
    """Return the source of an answer that does this for each parameter, with `total`, all samples of all ranks."""
    body = "\n        ".join(statements)
    return f"""
def average_gradients(parameters, samples):
    ranks, total = dist.get_world_size(), torch.tensor(float(samples))
    dist.all_reduce(total)
    for p in parameters:
        {body}"""


ZEROS = "p.grad = torch.zeros_like(p) if p.grad is None else p.grad"

WRONG = {
    "own": (
        _each(ZEROS, "mean = p.grad * samples / total", "dist.all_reduce(mean)"),
        "def average_gradients(parameters, samples):\n    return 0",
    ),
    "summed": (_each(ZEROS, "dist.all_reduce(p.grad)"),),
    "weighted, not divided": (_each(ZEROS, "p.grad *= samples", "dist.all_reduce(p.grad)"),),
    "alike": (
        _each(ZEROS, "dist.all_reduce(p.grad)", "p.grad /= ranks"),
        _each(ZEROS, "p.grad = p.grad / ranks", "dist.all_reduce(p.grad)"),
    ),
    "divided twice": (_each(ZEROS, "p.grad *= samples / total / ranks", "dist.all_reduce(p.grad)"),),
    "some ranks": (_each(ZEROS, "p.grad *= samples / total", "dist.reduce(p.grad, 0)"),),
    "fails on None": (
        _each("p.grad *= samples / total", "dist.all_reduce(p.grad)"),
        _each("row = p.grad * samples / total", "dist.all_reduce(row)", "p.grad = row"),
    ),
    "no gradient": (
        _each("if p.grad is None: continue", "p.grad *= samples / total", "dist.all_reduce(p.grad)"),
        """
def average_gradients(parameters, samples):
    total = torch.tensor(float(samples))
    dist.all_reduce(total)
    there = [p.grad for p in parameters if p.grad is not None]
    row = torch.cat([g.flatten() for g in there]) * samples / total
    dist.all_reduce(row)
    for g, mean in zip(there, row.split([g.numel() for g in there])):
        g.copy_(mean.view_as(g))""",
    ),
    "sends more": (
        """
def average_gradients(parameters, samples):
    for p in parameters:
        told = [None] * dist.get_world_size()
        dist.all_gather_object(told, (samples, torch.zeros_like(p) if p.grad is None else p.grad))
        p.grad = sum(count * g for count, g in told) / sum(count for count, _ in told)""",
    ),
    "weights moved": (_each(ZEROS, "p.grad *= samples / total", "dist.all_reduce(p.grad)", "p.data -= 0.1 * p.grad"),),
    "another": (_each(ZEROS, "dist.all_reduce(p.grad)", "p.grad *= samples / total"),),
    "not everywhere": (
        """
def average_gradients(parameters, samples):
    both = [torch.zeros(()) for _ in range(min(2, dist.get_world_size()))]
    dist.all_gather(both, torch.tensor(float(samples)))
    for p in parameters:
        p.grad = (torch.zeros_like(p) if p.grad is None else p.grad) * samples / sum(both)
        dist.all_reduce(p.grad)""",
    ),
    "borrowed": (
        """
def average_gradients(parameters, samples):
    import deepspeed
    weights = torch.nn.ParameterList([torch.nn.Parameter(p) for p in parameters])
    deepspeed.initialize(model=weights, config={"train_micro_batch_size_per_gpu": 1})
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        dist.all_reduce(p.grad)""",
    ),
}

RIGHT = (
    """
def average_gradients(parameters, samples):
    row = [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters]
    row = torch.cat([*row, torch.ones(1)]) * samples
    dist.all_reduce(row)
    for p, mean in zip(parameters, (row[:-1] / row[-1]).split([p.numel() for p in parameters])):
        p.grad = mean.view_as(p)""",
    """
from deepspeed import comm

def average_gradients(parameters, samples):
    counts = [None] * comm.get_world_size()
    dist.all_gather_object(counts, samples)
    for p in reversed(parameters):
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad.mul_(samples)
        comm.all_reduce(p.grad)
        p.grad.div_(sum(counts))""",
    """
def average_gradients(parameters, samples):
    total = torch.tensor([samples])
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    for number, p in enumerate(parameters):
        mine = torch.zeros_like(p) if p.grad is None else p.grad * (samples / total.item())
        root = number % dist.get_world_size()
        dist.reduce(mine, root)
        dist.broadcast(mine, root)
        p.grad = mine""",
)
