"""Exercise 05-save-best: answers that are known to be wrong, by their mistake, and right ones."""


def _best(body, head="import torch\n\n"):
    return f"{head}def save_if_better(engine, folder, loss, best):\n{body}"


_MEAN = """    mean = torch.tensor(loss)
    torch.distributed.all_reduce(mean)
    mean = mean.item() / torch.distributed.get_world_size()
"""

_SAVE_BETTER = """    if mean < best:
        engine.save_checkpoint(folder)
        return mean
    return best"""

WRONG = {
    "one rank saves": (
        _best(
            _MEAN
            + """    if mean < best and torch.distributed.get_rank() == 0:
        engine.save_checkpoint(folder)
    return min(mean, best)"""
        ),
    ),
    "each its own": (_best(_SAVE_BETTER.replace("mean", "loss"), head=""),),
    "more often": (
        _best(
            _MEAN
            + _SAVE_BETTER.replace(
                "        return mean",
                "        if torch.distributed.get_rank() == 0:\n"
                '            engine.save_checkpoint(folder, tag="best")\n'
                "        return mean",
            )
        ),
    ),
    "own tag": (_best(_MEAN + _SAVE_BETTER.replace("(folder)", '(folder, tag=f"loss-{loss:.2f}")')),),
    "always": (
        _best(_MEAN + "    engine.save_checkpoint(folder)\n    return min(mean, best)"),
        _best(_MEAN + "    engine.save_checkpoint(folder)\n    return mean"),
    ),
    "sum": (_best(_MEAN.replace(" / torch.distributed.get_world_size()", "") + _SAVE_BETTER),),
    "saves": (
        _best(_MEAN + _SAVE_BETTER.replace("mean < best", "mean <= best")),
        _best(
            _MEAN.replace("(mean)\n", "(mean, op=torch.distributed.ReduceOp.MIN)\n").replace(
                " / torch.distributed.get_world_size()", ""
            )
            + _SAVE_BETTER
        ),
    ),
    "does not save": (
        _best(_MEAN + "    return min(mean, best)"),
        _best(
            _MEAN
            + _SAVE_BETTER.replace(
                "engine.save_checkpoint(folder)", 'torch.save(engine.module.state_dict(), f"{folder}/best.pt")'
            )
        ),
    ),
    "own loss": (_best(_MEAN + _SAVE_BETTER.replace("return mean", "return loss")),),
    "another best": (
        _best(_MEAN + _SAVE_BETTER.replace("return best", "return mean")),
        _best(_MEAN + _SAVE_BETTER.replace("return mean", "return best")),
    ),
    "number of ranks": (
        _best(_MEAN.replace("torch.distributed.get_world_size()", "2") + _SAVE_BETTER),
        _best(_MEAN.replace("mean.item() / torch.distributed.get_world_size()", "mean.item() * 0.5") + _SAVE_BETTER),
    ),
    "hangs": (
        _best(
            "    if torch.distributed.get_rank() == 0:\n"
            + "".join(f"    {line}\n" for line in (_MEAN + _SAVE_BETTER).splitlines()[:-1])
            + "    return best"
        ),
    ),
}

RIGHT = (
    """import torch

def save_if_better(engine, folder, loss, best):
    losses = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(losses, loss)
    mean = sum(losses) / len(losses)
    if not mean < best:  # not a number is no better
        return best
    engine.save_checkpoint(folder, tag="best")
    return mean""",
    """import deepspeed
import torch

def save_if_better(engine, folder, loss, best):
    mean = torch.tensor([loss / engine.world_size], device=engine.device)
    deepspeed.comm.all_reduce(mean)
    better = mean.item() < best
    if better:
        engine.save_checkpoint(save_dir=folder, client_state={"best_mean": mean.item()})
    return min(best, mean.item())""",
    """import torch

def save_if_better(engine, folder, loss, best):
    told = [loss if torch.distributed.get_rank() == 0 else None]
    own = torch.tensor(loss, dtype=torch.float64)
    torch.distributed.reduce(own, dst=0)
    torch.distributed.broadcast(own, src=0)
    own = float(own) / torch.distributed.get_world_size()
    if own < best:
        engine.save_checkpoint(folder)
        best = own
    return best""",
)
