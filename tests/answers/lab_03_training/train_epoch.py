"""Exercise 03-train-epoch: answers that are known to be wrong, by their mistake, and right ones."""


def _epoch(body, end, head=""):
    """Return the source of a wrong train_epoch, of which only the loop and the end differ."""
    return f"import torch\n\ndef train_epoch(engine, loader):\n{head}    losses = []\n{body}\n{end}"


EPOCH_LOOP = """    for batch in loader:
        loss = engine(**batch).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.detach())"""

EPOCH_MEAN = """    mean = torch.stack(losses).mean()
    torch.distributed.all_reduce(mean)
    return mean.item() / torch.distributed.get_world_size()"""

WRONG = {
    "no step": (_epoch(EPOCH_LOOP.replace("        engine.step()\n", ""), EPOCH_MEAN),),
    "past the engine": (_epoch(EPOCH_LOOP.replace("engine.step()", "engine.optimizer.step()"), EPOCH_MEAN),),
    "stops early": (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace("    ", "        ").lstrip("\n")),),
    "batches left out": (
        _epoch(
            EPOCH_LOOP.replace("in loader", "in itertools.islice(loader, len(loader) // 2 * 2)"),
            EPOCH_MEAN,
            head="    import itertools\n\n",
        ),
    ),
    "steps now and then": (
        _epoch(
            EPOCH_LOOP.replace("batch in loader", "number, batch in enumerate(loader, 1)").replace(
                "engine.step()", "if number % 2 == 0:\n            engine.step()"
            ),
            EPOCH_MEAN,
        ),
        _epoch(EPOCH_LOOP.replace("        engine.step()\n", ""), "    engine.step()\n" + EPOCH_MEAN, head=""),
    ),
    "a step too many": (_epoch(EPOCH_LOOP, "    engine.step()\n" + EPOCH_MEAN),),
    "plain backward": (_epoch(EPOCH_LOOP.replace("engine.backward(loss)", "loss.backward()"), EPOCH_MEAN),),
    "plain backward refused": (
        _epoch(
            EPOCH_LOOP.replace("engine.backward(loss)", "backward(loss)"),
            EPOCH_MEAN,
            head="    backward = engine.backward if engine.zero_optimization_stage() else torch.Tensor.backward\n",
        ),
    ),
    "a second step": (
        _epoch(
            EPOCH_LOOP.replace("in loader", "in list(loader)[:2]").replace(
                "engine.step()", "engine.step()\n        engine.step()"
            ),
            EPOCH_MEAN,
        ),
    ),
    "other weights": (
        _epoch(EPOCH_LOOP, EPOCH_MEAN, head="    engine.zero_grad()\n    engine.optimizer.zero_grad()\n"),
        _epoch(EPOCH_LOOP.replace("backward(loss)", "backward(loss * 2)"), EPOCH_MEAN),
        _epoch(EPOCH_LOOP.replace("for batch in loader", "for batch in reversed(list(loader))"), EPOCH_MEAN),
    ),
    "another mean": (
        _epoch(EPOCH_LOOP, EPOCH_MEAN.replace("torch.distributed.get_world_size()", "2")),
        _epoch(EPOCH_LOOP, EPOCH_MEAN.replace(".mean()", "[1:].mean()")),
        _epoch(EPOCH_LOOP, EPOCH_MEAN.replace(".mean()", ".median()")),
    ),
    "divided twice": (_epoch(EPOCH_LOOP.replace("backward(loss)", "backward(loss / 2)"), EPOCH_MEAN),),
    "a tensor": (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace(".item()", "")),),
    "last loss": (
        _epoch(EPOCH_LOOP, "    return loss.item()"),
        _epoch(EPOCH_LOOP, EPOCH_MEAN.replace("torch.stack(losses).mean()", "loss.detach()")),
    ),
    "own mean": (_epoch(EPOCH_LOOP, "    return torch.stack(losses).mean().item()"),),
    "sum of losses": (
        _epoch(EPOCH_LOOP, EPOCH_MEAN.replace("mean()", "sum()")),
        _epoch(EPOCH_LOOP, "    return torch.stack(losses).sum().item()"),
    ),
    "sum over ranks": (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace(" / torch.distributed.get_world_size()", "")),),
    "loss divided": (
        _epoch(
            EPOCH_LOOP.replace("        engine.backward(loss)", "        loss = engine.backward(loss)"),
            EPOCH_MEAN,
        ),
    ),
}

RIGHT = (
    """import torch.distributed as dist

def train_epoch(engine, loader):
    total = 0.0
    for number, batch in enumerate(loader, 1):
        loss = engine(**batch).loss
        engine.backward(loss)
        engine.step()
        losses = [None] * dist.get_world_size()
        dist.all_gather_object(losses, loss.item())
        total += sum(losses) / len(losses)
    return total / number""",
    """from labsupport import DeepSpeedTrainer

def train_epoch(engine, loader):
    return DeepSpeedTrainer(engine).train_epoch(loader, progress=False)""",
    """import torch

def train_epoch(engine, loader):
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in loader:
        loss = engine(batch["input_ids"], labels=batch["labels"]).loss
        engine.backward(loss)
        engine.step()
        sums += torch.tensor([loss.item(), 1.0])
    torch.distributed.all_reduce(sums)
    return float(sums[0] / sums[1])""",
)
