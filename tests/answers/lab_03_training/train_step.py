"""Exercise 03-train-step: answers that are known to be wrong, by their mistake, and right ones."""


def _step(*statements):
    """Return the source of a wrong train_step: what it does after the forward pass; it returns the mean at last."""
    end = (*REDUCED, "return mean.item() / torch.distributed.get_world_size()")
    lines = ("loss = engine(**batch).loss", *statements, *(() if "return" in statements[-1] else end))
    return "\n    ".join(("import torch\n\ndef train_step(engine, batch):", *lines))


REDUCED = ("mean = loss.detach().clone()", "torch.distributed.all_reduce(mean)")

RIGHT_CALLS = ("engine.backward(loss)", "engine.step()")

WRONG = {
    "no step": (_step("engine.backward(loss)"),),
    "plain backward refused": (_step("loss.backward()", "engine.step()"),),
    "plain backward": (
        _step("loss.backward() if engine.zero_optimization_stage() else engine.backward(loss)", "engine.step()"),
    ),
    "other weights": (
        _step("loss = 2 * loss", *RIGHT_CALLS, "loss = loss / 2"),
        _step("engine.backward(loss, scale_wrt_gas=False)", "engine.step()"),
        _step("engine.backward(loss / torch.distributed.get_world_size())", "engine.step()"),
        _step(
            "if torch.distributed.get_rank() == 0: batch = batch",
            "engine.backward(loss)",
            "engine.zero_grad()",
            "engine.step()",
        ),
    ),
    "another loss": (
        _step(*RIGHT_CALLS, "loss = loss.detach().bfloat16().float()"),
        _step(*RIGHT_CALLS, *REDUCED, "return mean.item() / 2"),
        _step(*RIGHT_CALLS, "loss = engine(**batch).loss"),
        _step(
            *RIGHT_CALLS,
            "mean = loss.detach().clone()",
            "torch.distributed.broadcast(mean, 0)",
            "return round(mean.item(), 1)",
        ),
    ),
    "past the engine": (
        _step("engine.backward(loss)", "engine.optimizer.step()"),
        _step("loss.backward()", "engine.optimizer.step()", "engine.optimizer.zero_grad()"),
    ),
    "a second step": (_step(*RIGHT_CALLS, "engine.step()"),),
    "steps now and then": (
        _step("engine.backward(loss)", "if engine.is_gradient_accumulation_boundary(): engine.step()"),
    ),
    "divided twice": (_step("engine.backward(loss / engine.gradient_accumulation_steps())", "engine.step()"),),
    "a tensor": (
        _step(*RIGHT_CALLS, *REDUCED, "return mean / torch.distributed.get_world_size()"),
        _step(*RIGHT_CALLS, "return loss"),
    ),
    "own loss": (
        _step(*RIGHT_CALLS, "return loss.item()"),
        _step(*RIGHT_CALLS, *REDUCED, "return loss.item()"),
        _step(*RIGHT_CALLS, "torch.distributed.broadcast(loss.detach(), 0)", "return loss.item()"),
    ),
    "sum over ranks": (_step(*RIGHT_CALLS, *REDUCED, "return mean.item()"),),
    "loss divided": (_step("loss = engine.backward(loss)", "engine.step()"),),
}

RIGHT = (
    """import torch.distributed as dist

def train_step(engine, batch):
    output = engine(input_ids=batch["input_ids"], labels=batch["labels"])
    engine.backward(output.loss)
    engine.step()
    losses = [None] * dist.get_world_size()
    dist.all_gather_object(losses, output.loss.item())
    return sum(losses) / len(losses)""",
    """from labsupport import DeepSpeedTrainer

def train_step(engine, batch):
    return DeepSpeedTrainer(engine).train_step(batch)""",
    """import torch
from deepspeed import comm

def train_step(engine, batch):
    engine.train()
    loss = engine(**batch)[0]
    mean = loss.detach() / comm.get_world_size()
    comm.all_reduce(mean)
    engine.backward(loss)
    engine.step()
    return float(mean)""",
)
