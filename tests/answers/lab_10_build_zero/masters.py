"""Exercise 10-masters: answers that are known to be wrong, by their mistake, and right ones."""


def _answer(own="row(parameters).chunk(ranks)[rank].float()", grad="part.float() / ranks", again="pass",
            reduce="dist.reduce_scatter_tensor(part, row([p.grad for p in parameters]))", new="mine.bfloat16()",
            whole="torch.empty(share * ranks, dtype=torch.bfloat16)", write="p.data.copy_(piece.view_as(p))",
            padding="share * ranks - sum(sizes)", ready="pass"):  # fmt: skip
    return f"""
def shard_mixed(parameters, make_optimizer):
    rank, ranks, sizes = dist.get_rank(), dist.get_world_size(), [p.numel() for p in parameters]
    share = -(-sum(sizes) // ranks)

    def row(tensors):
        parts = [t.detach().flatten() for t in tensors]
        return torch.cat([*parts, parts[0].new_zeros({padding})])

    mine = {own}
    optimizer = make_optimizer([mine])
    {ready}

    def step():
        part = torch.empty(share, dtype=torch.bfloat16)
        {reduce}
        {again}
        mine.grad = {grad}
        optimizer.step()
        mine.grad = None
        new, whole = {new}, {whole}
        dist.all_gather_into_tensor(whole, new)
        for p, piece in zip(parameters, whole.split([*sizes, share * ranks - sum(sizes)])):
            {write}

    return step"""


WRONG = {
    "not bf16": (
        _answer(new="mine.detach().clone()", whole="torch.empty(share * ranks)", write="p.data = piece.view_as(p)"),
    ),
    "nothing moves": (
        _answer(own="row(parameters).chunk(ranks)[rank].clone()", grad="part / ranks", new="mine.detach()"),
        _answer(again="mine.copy_(row(parameters).chunk(ranks)[rank].float())"),
    ),
    "ranks differ": (
        _answer(write="p.data.copy_(piece.view_as(p) + rank)"),
        _answer().replace(
            "dist.all_gather_into_tensor(whole, new)", "whole = row(parameters); whole.chunk(ranks)[rank].copy_(new)"
        ),
    ),
    "summed": (_answer(grad="part.float()"),),
    "another": (
        _answer(new="(mine * 1.03).bfloat16()"),
        _answer(again="optimizer = make_optimizer([mine])"),
        _answer(grad="-part.float() / ranks"),
    ),
    "another gradient": (_answer(reduce="part = row([p.grad for p in parameters]).chunk(ranks)[rank] * ranks"),),
    "too much kept": (
        """
def shard_mixed(parameters, make_optimizer):
    masters = [p.detach().float() for p in parameters]
    optimizer = make_optimizer(masters)

    def step():
        for p, master in zip(parameters, masters):
            dist.all_reduce(p.grad)
            master.grad = p.grad.float() / dist.get_world_size()
        optimizer.step()
        optimizer.zero_grad()
        for p, master in zip(parameters, masters):
            p.data.copy_(master)

    return step""",
    ),
    "all reduced": (
        _answer(
            reduce="everything = row([p.grad for p in parameters]).float(); dist.all_reduce(everything); "
            "part = everything.chunk(ranks)[rank]"
        ),
    ),
    "gathers fp32": (_answer(new="mine.detach()", whole="torch.empty(share * ranks)"),),
    "not everywhere": (_answer(padding="0"),),
    "borrowed": (
        """
import deepspeed

def shard_mixed(parameters, make_optimizer):
    model = torch.nn.Module()
    model.weights = torch.nn.ParameterList(parameters)
    engine = deepspeed.initialize(model=model, config={"train_micro_batch_size_per_gpu": 1})[0]
    return engine.step""",
    ),
}

RIGHT = (
    # In fp32 the sum loses nothing on its way; it costs twice the bytes.
    _answer(
        reduce="part = torch.empty(share); dist.reduce_scatter_tensor(part, row([p.grad for p in parameters]).float())"
    ),
    """
class Mixed:
    def __init__(self, parameters, make_optimizer):
        self.parameters, self.ranks, self.rank = parameters, dist.get_world_size(), dist.get_rank()
        self.masters = [self.part(p) for p in parameters]
        self.optimizer = make_optimizer(self.masters)

    def padded(self, t):
        return torch.nn.functional.pad(t.detach().flatten(), (0, -t.numel() % self.ranks))

    def part(self, t):
        return self.padded(t).view(self.ranks, -1)[self.rank].to(torch.float32)

    def step(self):
        for p, master in zip(self.parameters, self.masters):
            mine = torch.empty(master.shape, dtype=torch.bfloat16)
            dist.reduce_scatter_tensor(mine, self.padded(p.grad))
            master.grad = mine.to(torch.float32).div_(self.ranks)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for p, master in zip(self.parameters, self.masters):
            parts = [torch.empty(master.shape, dtype=torch.bfloat16) for _ in range(self.ranks)]
            dist.all_gather(parts, master.to(torch.bfloat16))
            p.data = torch.cat(parts)[: p.numel()].clone().view_as(p)


def shard_mixed(parameters, make_optimizer):
    return Mixed(parameters, make_optimizer).step""",
    # The owners hand round their stretches by broadcast, and each gradient is a reduce to its owner.
    """
def shard_mixed(parameters, make_optimizer):
    rank, ranks, sizes = dist.get_rank(), dist.get_world_size(), [p.numel() for p in parameters]
    shares = [len(part) for part in torch.empty(sum(sizes)).tensor_split(ranks)]
    master = torch.cat([p.detach().flatten() for p in parameters]).split(shares)[rank].float()
    optimizer = make_optimizer([master])

    def step():
        parts = torch.cat([p.grad.flatten() for p in parameters]).split(shares)
        for owner, part in enumerate(parts):
            dist.reduce(part, owner)
        master.grad = parts[rank].float() / ranks
        optimizer.step()
        master.grad = None
        new = [torch.empty(n, dtype=torch.bfloat16) for n in shares]
        new[rank] = master.to(torch.bfloat16)
        for owner, part in enumerate(new):
            dist.broadcast(part, owner)
        for p, piece in zip(parameters, torch.cat(new).split(sizes)):
            p.data.copy_(piece.view_as(p))

    return step""",
)
