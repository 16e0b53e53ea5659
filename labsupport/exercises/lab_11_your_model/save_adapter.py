"""Exercise 11-save-adapter: The adapter and nothing else."""

import contextlib
import os

from labsupport.exercises.answers import describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_05_checkpointing.engines import common_folder
from labsupport.exercises.lab_11_your_model.engines import apart, lora_engine, whole_weights
from labsupport.exercises.meeting import Meeting
from labsupport.wording import first_line


def _save_adapter(answer):
    from labsupport.measure.counted import count

    meeting = Meeting()
    meeting.WAIT_SECONDS = 20
    engine = lora_engine()
    try:
        whole = whole_weights(engine)
        trained = {name for name, p in engine.module.named_parameters() if p.requires_grad}
        adapter = {name: tensor for name, tensor in whole.items() if name in trained}
        with common_folder() as folder:
            path = f"{folder}/adapter.pt"
            counted = count(lambda: meeting.call(answer, engine, path), memory=False)
            meeting.facts("all are back")
            problem = _problem(path, adapter, whole) if meeting.rank == 0 else None
            found = meeting.facts(problem)[0]
            size = os.path.getsize(path) if os.path.exists(path) else 0
            meeting.facts("read")
        if found:
            raise Mistaken(found[0], **found[1]) if found[0] in MISTAKES else Unusable(found[1])
        still_whole = sum(p.data.nbytes for p in engine.module.parameters())
        if max(meeting.facts(still_whole)):
            raise Mistaken("left whole", bytes=f"{still_whole:,}")
        _judge_gathered(meeting, counted, adapter)
    finally:
        with contextlib.suppress(Exception):
            engine.destroy()
    held = sum(tensor.nbytes for tensor in adapter.values())
    return f"{len(adapter)} whole tensors, {held:,} bytes, in a file of {size:,}; the frozen base was never gathered."


def _problem(path, adapter, whole):
    """What is wrong with the file, as [mistake, values], or as ["unusable", sentence], or None."""
    import torch

    if not os.path.exists(path):
        return ["no file", {}]
    try:
        saved = torch.load(path, weights_only=True)
    except Exception as error:
        return ["unusable", f"torch.load cannot read the file ({first_line(error)}): write it with torch.save."]
    if not isinstance(saved, dict) or not all(isinstance(each, torch.Tensor) for each in saved.values()):
        return ["unusable", f"The file holds {describe(type(saved))}: it has to be a dict from names to tensors."]
    if set(saved) - set(whole):
        return ["other names", {"name": sorted(map(str, set(saved) - set(whole)))[0], "right": sorted(adapter)[0]}]
    if set(saved) - set(adapter):
        return ["the base too", {"name": sorted(set(saved) - set(adapter))[0]}]
    if set(adapter) - set(saved):
        return ["missing", {"name": sorted(set(adapter) - set(saved))[0]}]
    for name, right in adapter.items():
        given, values = saved[name], {"name": name, "shape": tuple(saved[name].shape), "right": tuple(right.shape)}
        if given.numel() == 0:
            return ["empty", values]
        if given.shape != right.shape:
            return ["a share", values]
        if apart(given, right) > 1e-6:
            return ["other values", {"name": name, "apart": f"{apart(given, right):.2g}"}]
    return None


def _judge_gathered(meeting, counted, adapter):
    share = sum(tensor.nbytes for tensor in adapter.values()) / meeting.ranks
    gathered = max(meeting.facts(counted.sent.get("all_gather", 0)))
    if gathered > 1.5 * share:
        raise Mistaken("gathers the base", gathered=f"{gathered:,}", share=f"{share:,.0f}")


MISTAKES = {
    "no file": Mistake("There is no file at `path` when all ranks are back: one rank has to write it."),
    "empty": Mistake(
        "`{name}` has the shape {shape} in the file, and {right} in the model. At stage 3 `p.data` has no elements but "
        "while it is gathered; nothing fails when that is saved.",
        "The save has to stand within the gather, and the gather on every rank.",
    ),
    "a share": Mistake(
        "`{name}` has the shape {shape} in the file, and {right} in the model: one rank's share, which is of no use to "
        "whoever loads the adapter on another number of ranks."
    ),
    "the base too": Mistake(
        "The file holds `{name}` as well, which is frozen: it is the same as before the training, and far larger than "
        "the adapter."
    ),
    "missing": Mistake("`{name}` is trained and is not in the file: the product of the two matrices needs both."),
    "other names": Mistake(
        "The file has the name `{name}`, and the model has none such: keep the names of "
        "`engine.module.named_parameters()`, such as `{right}`."
    ),
    "other values": Mistake("`{name}` in the file is {apart} off the weight of the engine."),
    "gathers the base": Mistake(
        "The file is right, and each rank has sent {gathered} bytes of its shares for it; those of the adapter are "
        "{share}. You gather the frozen base too, which may not fit on one card.",
        "`GatheredParameters` takes a list: which parameters need to be in it?",
    ),
    "left whole": Mistake(
        "The file is right, and {bytes} bytes of weights are still whole on the ranks afterwards. What is gathered has "
        "to be let go again; `GatheredParameters` does both."
    ),
    "hangs": Mistake(
        "One rank waits for the other: a gather needs all ranks, also those that write nothing.",
        "Which lines stand under `if rank == 0`, and which of them are collective?",
    ),
}


EXERCISE = Exercise(
    id="11-save-adapter",
    title="The adapter and nothing else",
    difficulty=2,
    minutes=12,
    target="a file with the whole trained tensors and no others, from two ranks at stage 3 that gather nothing frozen",
    answer="save_adapter",
    check=_save_adapter,
    ranks=2,
    seconds=60,
    mistakes=MISTAKES,
)
