"""Exercise 10-sharded-optimizer: answers that are known to be wrong, by their mistake, and right ones."""


def _answer(mean="mine.grad /= ranks", own="", over="[mine]", gather="dist.all_gather_into_tensor(whole, mine)",
            reduce="dist.reduce_scatter_tensor(mine.grad, row([p.grad for p in parameters]))", again="pass",
            padding="share * ranks - sum(sizes)", write="p.data.copy_(new.view_as(p))"):  # fmt: skip
    return f"""
def shard_optimizer(parameters, make_optimizer):
    rank, ranks, sizes = dist.get_rank(), dist.get_world_size(), [p.numel() for p in parameters]
    share = -(-sum(sizes) // ranks)

    def row(tensors):
        return torch.cat([*(t.flatten() for t in tensors), torch.zeros({padding})])

    mine = row([p.detach() for p in parameters]).chunk(ranks)[rank].clone()
    optimizer = make_optimizer({over})
    {own or "pass"}

    def step():
        nonlocal optimizer
        {again}
        mine.grad = torch.empty_like(mine)
        {reduce}
        {mean}
        optimizer.step()
        mine.grad = None
        whole = torch.empty(share * ranks)
        {gather}
        for p, new in zip(parameters, whole.split([*sizes, share * ranks - sum(sizes)])):
            {write}

    return step"""


WHOLE_STATES = """
def shard_optimizer(parameters, make_optimizer):
    optimizer = make_optimizer(parameters)

    def step():
        rank, ranks, sizes = dist.get_rank(), dist.get_world_size(), [p.numel() for p in parameters]
        share = -(-sum(sizes) // ranks)
        row = torch.cat([*(p.grad.flatten() for p in parameters), torch.zeros(share * ranks - sum(sizes))])
        {reduced}
        for p, mean in zip(parameters, row.split([*sizes, share * ranks - sum(sizes)])):
            p.grad = mean.view_as(p) / ranks
        optimizer.step()

    return step"""

WRONG = {
    "nothing": (
        _answer(write="new.view_as(p)"),
        _answer(mean="mine.grad = None"),
    ),
    "summed": (_answer(mean="pass"),),
    "own": (
        """
def shard_optimizer(parameters, make_optimizer):
    return make_optimizer(parameters).step""",
    ),
    "states lost": (_answer(again="optimizer = make_optimizer([mine])"),),
    "only its own": (_answer(gather="whole = row(parameters); whole[rank * share : (rank + 1) * share] = mine"),),
    "ranks differ": (
        _answer(gather="dist.all_gather_into_tensor(whole, mine); whole = whole.roll(rank)"),
        _answer(gather="whole = mine.repeat(ranks)"),
    ),
    "too much kept": (
        WHOLE_STATES.format(reduced="dist.all_reduce(row)"),
        WHOLE_STATES.format(
            reduced="mine = torch.empty(share); dist.reduce_scatter_tensor(mine, row); "
            "dist.all_gather_into_tensor(row, mine)"
        ),
    ),
    "all reduced": (
        _answer(
            reduce="whole = row([p.grad for p in parameters]); dist.all_reduce(whole); "
            "mine.grad.copy_(whole.chunk(ranks)[rank])"
        ),
    ),
    "sends more": (
        _answer(
            reduce="whole = row([p.grad for p in parameters]); told = [torch.empty_like(whole) for _ in range(ranks)]; "
            "dist.all_gather(told, whole); mine.grad.copy_(sum(told).chunk(ranks)[rank])"
        ),
    ),
    "another": (_answer(gather="dist.all_gather_into_tensor(whole, mine); whole = whole.roll(1)"),),
    "not everywhere": (
        _answer(padding="0"),
        _answer().replace("dist.get_world_size()", "min(2, dist.get_world_size())"),
    ),
    "borrowed": (
        """
def shard_optimizer(parameters, make_optimizer):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(parameters, torch.optim.Adam, lr=0.01).step""",
    ),
}

RIGHT = (
    _answer(),
    # Each rank owns one stretch; gradients go to their owners and weights come from them, one message for each.
    """
def shard_optimizer(parameters, make_optimizer):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    weights = torch.nn.utils.parameters_to_vector(parameters).detach()
    shares = [len(part) for part in weights.tensor_split(ranks)]
    mine = weights.split(shares)[rank].clone()
    del weights
    optimizer = make_optimizer([mine])

    def step():
        parts = torch.cat([p.grad.flatten() for p in parameters]).div(ranks).split(shares)
        for owner, part in enumerate(parts):
            dist.reduce(part, owner)
        mine.grad = parts[rank]
        optimizer.step()
        optimizer.zero_grad()
        new = [mine.clone() if owner == rank else torch.empty(n) for owner, n in enumerate(shares)]
        for owner, part in enumerate(new):
            dist.broadcast(part, owner)
        torch.nn.utils.vector_to_parameters(torch.cat(new), parameters)

    return step""",
    # The weights live in the row, and each parameter is a view of it.
    """
class Sharded:
    def __init__(self, parameters, make_optimizer):
        self.ranks, self.parameters = dist.get_world_size(), parameters
        total = sum(p.numel() for p in parameters)
        self.pad = -total % (2 * self.ranks)
        self.row = torch.zeros(total + self.pad)
        start = 0
        for p in parameters:
            place = self.row[start : start + p.numel()].view_as(p)
            place.copy_(p.detach())
            p.data = place
            start += p.numel()
        self.mine = torch.nn.Parameter(self.row.chunk(self.ranks)[dist.get_rank()])
        self.optimizer = make_optimizer([self.mine])

    def step(self):
        flat = torch.cat([p.grad.reshape(-1) for p in self.parameters] + [torch.zeros(self.pad)])
        self.mine.grad = torch.empty_like(self.mine)
        dist.reduce_scatter(self.mine.grad, list(flat.chunk(self.ranks)))
        self.mine.grad.div_(self.ranks)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        dist.all_gather_into_tensor(self.row, self.mine.detach().clone())


def shard_optimizer(parameters, make_optimizer):
    return Sharded(parameters, make_optimizer).step""",
    # One reduce-scatter for each tensor, cut by itself.
    """
def shard_optimizer(parameters, make_optimizer):
    rank, ranks = dist.get_rank(), dist.get_world_size()

    def padded(t):
        flat = t.detach().flatten()
        return torch.nn.functional.pad(flat, (0, -len(flat) % ranks))

    slices = [padded(p).chunk(ranks)[rank].clone() for p in parameters]
    optimizer = make_optimizer(slices)

    def step():
        for p, piece in zip(parameters, slices):
            piece.grad = torch.empty_like(piece)
            dist.reduce_scatter_tensor(piece.grad, padded(p.grad) / ranks)
        optimizer.step()
        optimizer.zero_grad()
        for p, piece in zip(parameters, slices):
            whole = torch.empty(len(piece) * ranks)
            dist.all_gather_into_tensor(whole, piece)
            p.data = whole[: p.numel()].clone().view_as(p)

    return step""",
)
