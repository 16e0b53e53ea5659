"""Exercise 10-sharded-linear: answers that are known to be wrong, by their mistake, and right ones."""


def _answer(save="x, shard", again="x, shard = context.saved_tensors; w = whole(shard, outputs)", grad_x="grad_y @ w",
            reduce="dist.reduce_scatter_tensor(mine, rows)", mean="mine / dist.get_world_size()", cut="[:outputs]",
            pad="-outputs % dist.get_world_size()"):  # fmt: skip
    return f"""
def whole(shard, outputs):
    rows = torch.empty(len(shard) * dist.get_world_size(), shard.shape[1])
    dist.all_gather_into_tensor(rows, shard.detach())
    return rows{cut}


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(context, x, shard, outputs):
        w = whole(shard, outputs)
        context.save_for_backward({save})
        context.outputs = outputs
        return x @ w.T

    @staticmethod
    def backward(context, grad_y):
        outputs = context.outputs
        {again}
        rows = torch.nn.functional.pad(grad_y.T @ x, (0, 0, 0, {pad})).contiguous()
        mine = torch.empty(len(shard), shard.shape[1])
        {reduce}
        return {grad_x}, {mean}, None


def sharded_linear(x, shard, outputs):
    return Linear.apply(x, shard, outputs)"""


WRONG = {
    "another result": (_answer().replace("x @ w.T", "x @ w.T * dist.get_world_size()"),),
    "old weight": (
        _answer()
        .replace(
            "    rows = torch.empty",
            "    if hasattr(shard, 'whole'):\n        return shard.whole\n    rows = torch.empty",
            1,
        )
        .replace("    return rows[:outputs]", "    shard.whole = rows[:outputs]\n    return shard.whole", 1),
    ),
    "gradient of x": (_answer(grad_x="None"), _answer(grad_x="grad_y @ w / dist.get_world_size()")),
    "no gradient": (
        """
def sharded_linear(x, shard, outputs):
    rows = torch.empty(len(shard) * dist.get_world_size(), shard.shape[1])
    dist.all_gather_into_tensor(rows, shard.detach())
    return x @ rows[:outputs].T""",
    ),
    "summed": (_answer(mean="mine"),),
    "own": (
        _answer(reduce="mine = rows.view(-1, *shard.shape)[dist.get_rank()]", mean="mine"),
        """
def sharded_linear(x, shard, outputs):
    parts = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, shard.detach())
    parts[dist.get_rank()] = shard
    return x @ torch.cat(parts)[:outputs].T""",
    ),
    "another gradient": (_answer(reduce="dist.reduce_scatter_tensor(mine, rows.flip(0))"),),
    "second pass": (
        """
def sharded_linear(x, shard, outputs):
    ranks = dist.get_world_size()
    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(context, x, shard):
            rows = torch.empty(len(shard) * ranks, shard.shape[1])
            dist.all_gather_into_tensor(rows, shard.detach())
            context.save_for_backward(x)
            return x @ rows[:outputs].T

        @staticmethod
        def backward(context, grad_y):
            (x,) = context.saved_tensors
            rows = torch.empty(len(shard) * ranks, shard.shape[1])
            dist.all_gather_into_tensor(rows, shard.detach())
            mean = torch.empty_like(shard)
            full = torch.nn.functional.pad(grad_y.T @ x, (0, 0, 0, -outputs % ranks)).contiguous()
            dist.reduce_scatter_tensor(mean, full)
            shard.grad = mean.detach() / ranks
            return grad_y @ rows[:outputs], None
    return Linear.apply(x, shard)""",
    ),
    "weight kept": (_answer(save="x, shard, w", again="x, shard, w = context.saved_tensors"),),
    "sends more": (_answer(reduce="dist.all_reduce(rows); mine = rows.view(-1, *shard.shape)[dist.get_rank()]"),),
    "not everywhere": (_answer(pad="0"),),
    "borrowed": (
        """
from torch.nn.parallel import DistributedDataParallel

def sharded_linear(x, shard, outputs):
    layer = torch.nn.Linear(x.shape[1], outputs, bias=False)
    return DistributedDataParallel(layer)(x)""",
    ),
}

RIGHT = (
    _answer(),
    # Without the whole at any time: each rank's rows come by a broadcast, are used and dropped.
    """
class Linear(torch.autograd.Function):
    @staticmethod
    def rows_of(owner, shard):
        rows = shard.detach().clone() if owner == dist.get_rank() else torch.empty_like(shard)
        dist.broadcast(rows, owner)
        return rows

    @staticmethod
    def forward(context, x, shard, outputs):
        context.save_for_backward(x, shard)
        parts = [x @ Linear.rows_of(owner, shard).T for owner in range(dist.get_world_size())]
        return torch.cat(parts, dim=1)[:, :outputs].clone()

    @staticmethod
    def backward(context, grad_y):
        x, shard = context.saved_tensors
        grad_x, mean = torch.zeros_like(x), None
        for owner in range(dist.get_world_size()):
            part = grad_y[:, owner * len(shard) : (owner + 1) * len(shard)]
            part = torch.nn.functional.pad(part, (0, len(shard) - part.shape[1]))
            grad_x += part @ Linear.rows_of(owner, shard)
            grads = part.T @ x / dist.get_world_size()
            dist.reduce(grads, owner)
            mean = grads if owner == dist.get_rank() else mean
        return grad_x, mean, None


def sharded_linear(x, shard, outputs):
    return Linear.apply(x, shard, outputs)""",
    # Autograd keeps the shard and gathers again, through hooks on what is saved.
    """
class Gather(torch.autograd.Function):
    @staticmethod
    def forward(context, shard):
        parts = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, shard.detach())
        return torch.cat(parts)

    @staticmethod
    def backward(context, grad):
        mine = torch.empty(len(grad) // dist.get_world_size(), grad.shape[1])
        dist.reduce_scatter(mine, list((grad / dist.get_world_size()).contiguous().chunk(dist.get_world_size())))
        return mine


def sharded_linear(x, shard, outputs):
    def pack(tensor):
        return tensor if tensor.shape == x.shape else (tensor.shape, tensor.stride())

    def unpack(kept):
        if isinstance(kept, torch.Tensor):
            return kept
        rows = Gather.apply(shard.detach())[:outputs]
        return rows if rows.shape == kept[0] else rows.T

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return x @ Gather.apply(shard)[:outputs].T""",
)
