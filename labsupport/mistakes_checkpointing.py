"""What readers get wrong in exercises_checkpointing.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake

_SAVE = """def save(engine, folder, batches_read):
    engine.save_checkpoint(folder, client_state={"batches_read": batches_read})
"""

_LOAD = """def load(engine, folder):
    path, state = engine.load_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(folder)
    return state["batches_read"]
"""


def _pair(save=_SAVE, load=_LOAD):
    return f"{save}\n{load}\nsave_and_load = (save, load)"


SAVE_LOAD = {
    "position lost": Mistake(
        "Your load {happened}, and the run had read 17 batches. DeepSpeed saves nothing of where you are in "
        "your data: the position has to go into the checkpoint, under a key of your own.",
        (
            _pair(
                "def save(engine, folder, batches_read):\n    engine.save_checkpoint(folder)\n",
                _LOAD.replace('["batches_read"]', '.get("batches_read", 0)'),
            ),
            _pair(load=_LOAD.replace('state["batches_read"]', "engine.global_steps")),
            _pair("def save(engine, folder, batches_read):\n    engine.save_checkpoint(folder)\n"),
        ),
    ),
    "counter": Mistake(
        "The engine made 2 steps, and after your load it believes in {steps}. `client_state` is laid over the "
        "engine's own dict, so a key of yours has replaced one of its own.",
        (
            _pair(
                _SAVE.replace('"batches_read"', '"global_steps"'),
                _LOAD.replace('state["batches_read"]', "engine.global_steps"),
            ),
            _pair(
                _SAVE.replace('"batches_read"', '"global_steps"'),
                _LOAD.replace('"batches_read"', '"global_steps"'),
            ),
        ),
        "Choose a key that is surely yours.",
    ),
    "engine not restored": Mistake(
        "After your load the engine of rank {rank} counts 0 steps. The weights alone are not the state of a run: "
        "the masters, Adam's states, the scheduler and the counters have to come back, on every rank.",
        (
            _pair(load=_LOAD.replace("(folder)\n    if", "(folder, load_module_only=True)\n    if")),
            """import json, os
import torch

def save(engine, folder, batches_read):
    os.makedirs(folder, exist_ok=True)
    torch.save([engine.module.state_dict(), batches_read], f"{folder}/{torch.distributed.get_rank()}.pt")

def load(engine, folder):
    weights, batches_read = torch.load(f"{folder}/{torch.distributed.get_rank()}.pt")
    engine.module.load_state_dict(weights)
    return batches_read

save_and_load = (save, load)""",
        ),
    ),
    "other training": Mistake(
        "At stage {stage} the steps after your load do not end at the weights of the uninterrupted run. Adam's "
        "momentum and variance and the learning-rate scheduler are parts of a run as well.",
        (
            _pair(load=_LOAD.replace("(folder)\n    if", "(folder, load_optimizer_states=False)\n    if")),
            _pair(load=_LOAD.replace("(folder)\n    if", "(folder, load_lr_scheduler_states=False)\n    if")),
        ),
    ),
    "missing folder": Mistake(
        "With a folder that does not exist your load has to raise FileNotFoundError; {happened}. The engine itself "
        "raises nothing: it returns (None, None), and a script that does not look trains from random weights.",
        (
            _pair(load=_LOAD.replace("    if path is None:\n        raise FileNotFoundError(folder)\n", "")),
            _pair(load=_LOAD.replace("raise FileNotFoundError(folder)", "return 0")),
        ),
        "Which of the two values tells that nothing was loaded?",
    ),
    "hangs": Mistake(
        "One rank waits for the other. Saving is collective: every rank writes its own files, and they wait for "
        "each other, so no rank may be left out.",
        (
            _pair(
                """import torch

def save(engine, folder, batches_read):
    if torch.distributed.get_rank() == 0:
        engine.save_checkpoint(folder, client_state={"batches_read": batches_read})
"""
            ),
        ),
    ),
}


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

SAVE_BEST = {
    "one rank saves": Mistake(
        "With losses of {losses} and a best of {best} rank {rank} calls `save_checkpoint` and the other does not. "
        "In a real run it would wait there in vain: each rank writes its own part of the checkpoint.",
        (
            _best(
                _MEAN
                + """    if mean < best and torch.distributed.get_rank() == 0:
        engine.save_checkpoint(folder)
    return min(mean, best)"""
            ),
        ),
    ),
    "each its own": Mistake(
        "With losses of {losses} and a best of {best} rank {rank} saves and the other does not. Each decides by "
        "its own loss, and saving is collective: the one that saves would wait for the other in vain.",
        (_best(_SAVE_BETTER.replace("mean", "loss"), head=""),),
        "The ranks have to decide by one number that all of them know.",
    ),
    "always": Mistake(
        "With losses of {losses} and a best of {best} nothing became better, and your function saves all the same. "
        "The best checkpoint would be replaced by a worse one.",
        (
            _best(_MEAN + "    engine.save_checkpoint(folder)\n    return min(mean, best)"),
            _best(_MEAN + "    engine.save_checkpoint(folder)\n    return mean"),
        ),
    ),
    "sum": Mistake(
        "With losses of {losses} and a best of {best} you do not save, although the mean is {mean}. An all-reduce "
        "gives the sum over the ranks, unless you divide it.",
        (_best(_MEAN.replace(" / torch.distributed.get_world_size()", "") + _SAVE_BETTER),),
    ),
    "saves": Mistake(
        "With losses of {losses} and a best of {best} your function saves. The mean is {mean}, which is not below "
        "the best.",
        (
            _best(_MEAN + _SAVE_BETTER.replace("mean < best", "mean <= best")),
            _best(
                _MEAN.replace("(mean)\n", "(mean, op=torch.distributed.ReduceOp.MIN)\n").replace(
                    " / torch.distributed.get_world_size()", ""
                )
                + _SAVE_BETTER
            ),
        ),
    ),
    "does not save": Mistake(
        "With losses of {losses} and a best of {best} your function does not save. The mean is {mean}, which is "
        "below the best.",
        (_best(_MEAN + "    return min(mean, best)"),),
    ),
    "own loss": Mistake(
        "With losses of {losses} and a best of {best} the ranks return different numbers. The next call would "
        "compare with a best that differs from rank to rank, and sooner or later one saves alone.",
        (_best(_MEAN + _SAVE_BETTER.replace("return mean", "return loss")),),
    ),
    "another best": Mistake(
        "With losses of {losses} and a best of {best} your function returns {given}. Return the best mean so far, "
        "whether it is the new one or the old one.",
        (
            _best(_MEAN + _SAVE_BETTER.replace("return best", "return mean")),
            _best(_MEAN + _SAVE_BETTER.replace("return mean", "return best")),
        ),
    ),
    "hangs": Mistake(
        "One rank waits for the other. Both the mean over the ranks and the save are collective: a rank that is "
        "left out leaves its peers waiting.",
        (
            _best(
                "    if torch.distributed.get_rank() == 0:\n"
                + "".join(f"    {line}\n" for line in (_MEAN + _SAVE_BETTER).splitlines()[:-1])
                + "    return best"
            ),
        ),
    ),
}
