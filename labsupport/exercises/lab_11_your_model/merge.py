"""Exercise 11-merge: Merge under a gather."""

import contextlib

from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_11_your_model.engines import LAYERS, RANK, SCALE, WIDTH, apart, lora_engine, whole_weights
from labsupport.exercises.meeting import Meeting
from labsupport.wording import first_line

OF_A_LAYER = WIDTH * WIDTH + WIDTH + 2 * RANK * WIDTH  # elements


def _merge(answer):
    import torch

    meeting = Meeting()
    meeting.WAIT_SECONDS = 20
    engine = lora_engine()
    try:
        before, rows = whole_weights(engine), torch.randn(2, WIDTH)
        with torch.no_grad():
            expected = engine(rows)
        with _most_whole(engine) as most:
            _call(meeting, answer, engine)
        meeting.facts("all are back")
        after = whole_weights(engine)
        with torch.no_grad():
            moved = apart(engine(rows), expected)
        facts = meeting.facts([_distances(before, after), moved])
        for distances, output in facts:
            _judge(distances, output)
        if max(meeting.facts(max(most, default=0))) > OF_A_LAYER:
            raise Mistaken("all at once", most=f"{max(most):,}", layer=f"{OF_A_LAYER:,}")
    finally:
        with contextlib.suppress(Exception):
            engine.destroy()
    return (
        f"The outputs move by {max(output for _, output in facts):.1g}, and at most {max(most):,} elements "
        f"were whole at a time, of {LAYERS * OF_A_LAYER:,}."
    )


def _call(meeting, answer, engine):
    try:
        meeting.call(answer, engine)
    except Unusable as problem:
        if isinstance(problem.error, RuntimeError):
            raise Mistaken("not gathered", said=first_line(problem.error)) from problem
        raise


@contextlib.contextmanager
def _most_whole(engine):
    """Gives the list to which the elements that are whole are added at each gather."""
    import deepspeed

    found, gather = [], deepspeed.zero.GatheredParameters
    enter = gather.__enter__

    def noted(context):
        result = enter(context)
        found.append(sum(p.data.numel() for p in engine.module.parameters()))
        return result

    gather.__enter__ = noted
    try:
        yield found
    finally:
        gather.__enter__ = enter


def _distances(before, after):
    """How far the merged weights are from the right ones, and from what mistakes give, over all layers."""
    far = dict.fromkeys(("right", "nothing", "no scale", "B"), 0.0)
    for name, weight in before.items():
        if not name.endswith("base.weight"):
            continue
        layer = name.removesuffix("base.weight")
        a, b = before[f"{layer}lora_A"], before[f"{layer}lora_B"]
        added, given = b @ a, after[name]
        for way, factor in (("right", SCALE), ("nothing", 0.0), ("no scale", 1.0)):
            far[way] = max(far[way], apart(given, weight + factor * added))
        far["B"] = max(far["B"], after[f"{layer}lora_B"].abs().max().item())
    return far


def _judge(far, output):
    if far["nothing"] < 1e-5:
        raise Mistaken("lost" if far["B"] > 1e-5 else "thrown away", output=f"{output:.2g}")
    if far["no scale"] < 1e-4:
        raise Mistaken("no scale", output=f"{output:.2g}")
    if far["right"] > 1e-4:
        raise Mistaken("another", apart=f"{far['right']:.2g}", output=f"{output:.2g}")
    if far["B"] > 1e-5 and output > 1e-4:
        raise Mistaken("counted twice", output=f"{output:.2g}")
    if output > 1e-4:
        raise Mistaken("another", apart=f"{far['right']:.2g}", output=f"{output:.2g}")


MISTAKES = {
    "not gathered": Mistake(
        "Your function raises: {said}. At stage 3 a weight has no elements but while it is gathered: the base's weight "
        "and both matrices have to be.",
    ),
    "lost": Mistake(
        "After your function no base weight has changed. What you write into a weight is kept only within "
        "`GatheredParameters` with a `modifier_rank`: without a gather it has no elements, and without a rank the old "
        "share comes back.",
        "What does `GatheredParameters` do with the whole weight when it ends?",
    ),
    "thrown away": Mistake(
        "The matrices are zero and the base weights are the old ones: what was trained is gone, and the outputs have "
        "moved by {output}. Of all that a gather holds, only what you change in place under a `modifier_rank` stays."
    ),
    "no scale": Mistake(
        "You have added B A. The layer adds `scale` times B A to its output, so the outputs have moved by {output}."
    ),
    "counted twice": Mistake(
        "The base weights are right, and the adapter still adds its part on top: the outputs have moved by {output}.",
        "Set `lora_B` to zero; where must that happen so that the shares know of it?",
    ),
    "all at once": Mistake(
        "The weights are right, and {most} elements were whole on a rank at one time; one layer has {layer}. A model "
        "that needs stage 3 does not fit whole on a card, so go layer by layer."
    ),
    "another": Mistake("A base weight is {apart} off W + scale B A, and the outputs have moved by {output}."),
    "hangs": Mistake(
        "One rank waits for the other: a gather needs all ranks, whoever changes the weight.",
        "Which lines stand under `if rank == 0`, and which of them are collective?",
    ),
}


EXERCISE = Exercise(
    id="11-merge",
    title="Merge under a gather",
    difficulty=3,
    minutes=15,
    target="at stage 3 on two ranks the outputs stay to 1e-4 while the adapter is zero, with one layer whole at a time",
    answer="merge",
    check=_merge,
    ranks=2,
    seconds=60,
    mistakes=MISTAKES,
)
