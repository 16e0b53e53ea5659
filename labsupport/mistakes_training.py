"""What readers get wrong in exercises_training.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake


def _step(*statements):
    """Return the source of a wrong train_step: what it does after the forward pass; it returns the mean at last."""
    end = (*REDUCED, "return mean.item() / torch.distributed.get_world_size()")
    lines = ("loss = engine(**batch).loss", *statements, *(() if "return" in statements[-1] else end))
    return "\n    ".join(("import torch\n\ndef train_step(engine, batch):", *lines))


REDUCED = ("mean = loss.detach().clone()", "torch.distributed.all_reduce(mean)")

RIGHT_CALLS = ("engine.backward(loss)", "engine.step()")

TRAIN_STEP = {
    "no step": Mistake(
        "The weights never move: `engine.backward` computes gradients and averages them, and only `engine.step` "
        "updates with them.",
        (_step("engine.backward(loss)"),),
    ),
    "plain backward": Mistake(
        "At stage 0 DeepSpeed refuses `loss.backward()`: it averages the gradients over the ranks in "
        "`engine.backward`, and without that each rank would keep its own.",
        (_step("loss.backward()", "engine.step()"),),
        "One call is right at every stage.",
    ),
    "past the engine": Mistake(
        "You step the optimizer yourself. The engine counts micro-batches and moves the scheduler in its own "
        "`engine.step`, and does not know of this update.",
        (
            _step("engine.backward(loss)", "engine.optimizer.step()"),
            _step("loss.backward()", "engine.optimizer.step()", "engine.optimizer.zero_grad()"),
        ),
    ),
    "a second step": Mistake(
        "You call `engine.step` more than once for a micro-batch. Each call counts as a micro-batch, so that a "
        "second one finds no gradients, or closes an accumulation window too early.",
        (_step(*RIGHT_CALLS, "engine.step()"),),
    ),
    "steps now and then": Mistake(
        "With 2 accumulation steps you called `engine.step` after {steps} of {count} micro-batches. The engine "
        "counts these calls: it decides itself which of them updates, and a window in which one is left out "
        "stays open.",
        (_step("engine.backward(loss)", "if engine.is_gradient_accumulation_boundary(): engine.step()"),),
    ),
    "divided twice": Mistake(
        "With {accumulation} accumulation steps the weights move too little: `engine.backward` divides the loss "
        "by the accumulation steps, and you do it once more.",
        (_step("engine.backward(loss / engine.gradient_accumulation_steps())", "engine.step()"),),
    ),
    "a tensor": Mistake(
        "You return a tensor. It keeps memory alive as long as somebody keeps it, and with the loss itself the "
        "whole graph: return a Python float.",
        (
            _step(*RIGHT_CALLS, *REDUCED, "return mean / torch.distributed.get_world_size()"),
            _step(*RIGHT_CALLS, "return loss"),
        ),
    ),
    "own loss": Mistake(
        "Each rank returns the loss of its own micro-batch, {said} in the first one. The loss of the batch is the "
        "mean over the ranks, {mean}: DeepSpeed averages gradients, and never the loss.",
        (
            _step(*RIGHT_CALLS, "return loss.item()"),
            _step(*RIGHT_CALLS, *REDUCED, "return loss.item()"),
        ),
        "An all-reduce adds up a number over the ranks.",
    ),
    "sum over ranks": Mistake(
        "You return the sum over the ranks, {said} in the first micro-batch; the mean is {mean}. An all-reduce "
        "adds up and does not divide.",
        (_step(*RIGHT_CALLS, *REDUCED, "return mean.item()"),),
    ),
    "loss divided": Mistake(
        "With 2 accumulation steps you return {said}, half of the loss {mean}. `engine.backward` returns the loss "
        "that it has divided by the accumulation steps.",
        (_step("loss = engine.backward(loss)", "engine.step()"),),
    ),
}


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

TRAIN_EPOCH = {
    "no step": Mistake(
        "`engine.step` was never called, so nothing was updated. It belongs after every `engine.backward`.",
        (_epoch(EPOCH_LOOP.replace("        engine.step()\n", ""), EPOCH_MEAN),),
    ),
    "past the engine": Mistake(
        "You step the optimizer yourself. The engine counts micro-batches in its own `engine.step`, and does not "
        "know of this update.",
        (_epoch(EPOCH_LOOP.replace("engine.step()", "engine.optimizer.step()"), EPOCH_MEAN),),
    ),
    "stops early": Mistake(
        "Your function ends after the first of {count} micro-batches: a `return` inside the loop leaves it.",
        (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace("    ", "        ").lstrip("\n")),),
    ),
    "last window left out": Mistake(
        "Your function leaves out {left} of {count} micro-batches, because they do not fill an accumulation "
        "window. Train on them too: the window stays open, and the next call closes it.",
        (
            _epoch(
                EPOCH_LOOP.replace("in loader", "in itertools.islice(loader, len(loader) // 2 * 2)"),
                EPOCH_MEAN,
                head="    import itertools\n\n",
            ),
        ),
    ),
    "steps now and then": Mistake(
        "You called `engine.step` after {steps} of {count} micro-batches. The engine counts these calls and "
        "updates on every second one, so that it sees windows which are longer than yours.",
        (
            _epoch(
                EPOCH_LOOP.replace("batch in loader", "number, batch in enumerate(loader, 1)").replace(
                    "engine.step()", "if number % 2 == 0:\n            engine.step()"
                ),
                EPOCH_MEAN,
            ),
            _epoch(EPOCH_LOOP.replace("        engine.step()\n", ""), "    engine.step()\n" + EPOCH_MEAN, head=""),
        ),
        "How many `step` calls belong to one `backward`?",
    ),
    "a step too many": Mistake(
        "You called `engine.step` more often than there are micro-batches, to close the last window. For the "
        "engine each call is a micro-batch; one without gradients of its own fails, or updates with what is there.",
        (_epoch(EPOCH_LOOP, "    engine.step()\n" + EPOCH_MEAN),),
        "The unfinished window goes on with the next call.",
    ),
    "plain backward": Mistake(
        "The weights move too little. With `loss.backward()` DeepSpeed divides by the 2 accumulation steps at "
        "every output of the model that the gradient passes: here at the loss and at the logits, so by 4. "
        "`engine.backward(loss)` divides once.",
        (_epoch(EPOCH_LOOP.replace("engine.backward(loss)", "loss.backward()"), EPOCH_MEAN),),
    ),
    "divided twice": Mistake(
        "The weights move too little: `engine.backward` divides the loss by the {accumulation} accumulation steps, "
        "and you do it once more.",
        (_epoch(EPOCH_LOOP.replace("backward(loss)", "backward(loss / 2)"), EPOCH_MEAN),),
    ),
    "a tensor": Mistake(
        "You return a tensor: return a Python float.",
        (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace(".item()", "")),),
    ),
    "last loss": Mistake(
        "You return the loss of the last micro-batch, {said}. One micro-batch says little about {count}; their "
        "mean is {mean}.",
        (
            _epoch(EPOCH_LOOP, "    return loss.item()"),
            _epoch(EPOCH_LOOP, EPOCH_MEAN.replace("torch.stack(losses).mean()", "loss.detach()")),
        ),
    ),
    "own mean": Mistake(
        "Each rank returns the mean of its own micro-batches, {said} on rank 0. Every rank reads another part of "
        "the data, so that the mean of the epoch, {mean}, needs all of them.",
        (_epoch(EPOCH_LOOP, "    return torch.stack(losses).mean().item()"),),
    ),
    "sum of losses": Mistake(
        "You return the sum over the micro-batches, {said}. It grows with the length of the loader; the mean over "
        "batches and ranks is {mean}.",
        (
            _epoch(EPOCH_LOOP, EPOCH_MEAN.replace("mean()", "sum()")),
            _epoch(EPOCH_LOOP, "    return torch.stack(losses).sum().item()"),
        ),
    ),
    "sum over ranks": Mistake(
        "You return the sum over the ranks, {said}; the mean is {mean}. An all-reduce adds up and does not divide.",
        (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace(" / torch.distributed.get_world_size()", "")),),
    ),
    "loss divided": Mistake(
        "You return {said}, half of the mean loss {mean}. `engine.backward` returns the loss that it has divided "
        "by the accumulation steps.",
        (
            _epoch(
                EPOCH_LOOP.replace("        engine.backward(loss)", "        loss = engine.backward(loss)"),
                EPOCH_MEAN,
            ),
        ),
    ),
}
