"""Exercise 10-buckets: answers that are known to be wrong, by their mistake, and right ones."""


def _answer(divide=" / ranks", order="[shards.pop(p) for p in parameters]", release="p.grad = None", full="bucket_size",
            reduce="dist.reduce_scatter_tensor(mine, rows.flatten())", pad="-p.numel() % ranks"):  # fmt: skip
    return f"""
def shard_gradients(parameters, bucket_size):
    ranks, rank, bucket, shards = dist.get_world_size(), dist.get_rank(), [], {{}}

    def flush():
        if not bucket:
            return
        rows = torch.cat([torch.nn.functional.pad(p.grad.flatten(), (0, {pad})).view(ranks, -1)
                          for p in bucket], dim=1)
        mine = torch.empty(rows.shape[1])
        {reduce}
        for p, part in zip(bucket, mine.split([-(-p.numel() // ranks) for p in bucket])):
            shards[p] = part{divide}
            {release}
        bucket.clear()

    def ready(p):
        bucket.append(p)
        if sum(each.numel() for each in bucket) >= {full}:
            flush()

    for p in parameters:
        p.register_post_accumulate_grad_hook(ready)

    def finish():
        flush()
        return {order}

    return finish"""


AFTERWARDS = """
def shard_gradients(parameters, bucket_size):
    ranks = dist.get_world_size()

    def finish():
        shards = []
        for p in parameters:
            row = torch.nn.functional.pad(p.grad.flatten(), (0, -p.numel() % ranks))
            shards.append(torch.empty(len(row) // ranks))
            dist.reduce_scatter_tensor(shards[-1], row / ranks)
            p.grad = None
        return shards

    return finish"""

WRONG = {
    "summed": (_answer(divide=""),),
    "own": (_answer(reduce="mine = rows[rank] * ranks"),),
    "both": (
        _answer(order="[shards[p].clone() for p in parameters]").replace(
            "shards[p] =", "shards[p] = shards.get(p, 0) +"
        ),
    ),
    "backwards": (_answer(order="[shards.pop(p) for p in reversed(parameters)]"),),
    "another length": (_answer(order="[shards.pop(p)[: p.numel() // ranks] for p in parameters]"),),
    "another": (
        _answer(reduce="dist.reduce_scatter_tensor(mine, rows.T.flatten())"),
        _answer(order="[shards.pop(p) + 0.1 for p in parameters]"),
    ),
    "kept whole": (_answer(release="pass"),),
    "peak": (AFTERWARDS, _answer(full="10**9")),
    "many messages": (_answer(full="1"),),
    "sends more": (_answer(reduce="dist.all_reduce(rows); mine = rows[rank].clone()"),),
    "not everywhere": (_answer(pad="p.numel() % 2 if ranks > 1 else 0"),),
    "borrowed": (
        """
from torch.nn.parallel import DistributedDataParallel

def shard_gradients(parameters, bucket_size):
    model = torch.nn.Module()
    model.weights = torch.nn.ParameterList(parameters)
    DistributedDataParallel(model)
    return lambda: [p.grad.flatten().chunk(dist.get_world_size())[dist.get_rank()] for p in parameters]""",
    ),
}

RIGHT = (
    _answer(),
    # The bucket is closed before it grows too large, and the gradients are divided first.
    """
class Stage2:
    def __init__(self, parameters, bucket_size):
        self.parameters, self.size, self.waiting = parameters, bucket_size, []
        self.shards, self.ranks = [None] * len(parameters), dist.get_world_size()
        for number, p in enumerate(parameters):
            p.register_post_accumulate_grad_hook(lambda p, number=number: self.add(number, p))

    def add(self, number, p):
        if self.waiting and sum(self.parameters[n].numel() for n, _ in self.waiting) + p.numel() > self.size:
            self.reduce()
        flat, p.grad = p.grad.reshape(-1) / self.ranks, None
        self.waiting.append((number, torch.cat([flat, flat.new_zeros(-len(flat) % self.ranks)])))

    def reduce(self):
        inputs = [torch.cat(parts) for parts in zip(*(flat.chunk(self.ranks) for _, flat in self.waiting))]
        mine = torch.empty_like(inputs[0])
        dist.reduce_scatter(mine, inputs)
        start = 0
        for number, flat in self.waiting:
            self.shards[number] = mine[start : start + len(flat) // self.ranks].clone()
            start += len(flat) // self.ranks
        self.waiting = []

    def finish(self):
        self.reduce()
        return list(self.shards)


def shard_gradients(parameters, bucket_size):
    return Stage2(parameters, bucket_size).finish""",
    # Every part goes to its owner in a reduce of its own, a bucket at a time, as DeepSpeed can do it.
    """
def shard_gradients(parameters, bucket_size):
    rank, ranks, full, shards = dist.get_rank(), dist.get_world_size(), [], {}

    def send():
        flats = [torch.nn.functional.pad(p.grad.flatten(), (0, -p.numel() % ranks)) for p in full]
        rows = torch.stack([torch.cat([flat.chunk(ranks)[r] for flat in flats]) for r in range(ranks)])
        mine = torch.empty_like(rows)
        dist.all_to_all_single(mine, rows)
        parts = mine.mean(dim=0).split([len(flat) // ranks for flat in flats])
        for p, part in zip(full, parts):
            shards[id(p)], p.grad = part, None
        full[:] = []

    def hook(p):
        full.append(p)
        if sum(q.numel() for q in full) > bucket_size:
            send()

    handles = [p.register_post_accumulate_grad_hook(hook) for p in parameters]

    def finish():
        if full:
            send()
        return [shards.pop(id(p)) for p in parameters]

    return finish""",
)
