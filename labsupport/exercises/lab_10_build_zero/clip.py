"""Exercise 10-clip: One norm, of gradients that nobody has whole."""

from functools import partial

from labsupport.exercises.answers import describe, is_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_10_build_zero.worlds import (
    EVERYWHERE,
    RANKS,
    Watch,
    Worlds,
    farthest,
    in_words,
    new_tensors,
    require_own_work,
)
from labsupport.wording import ranks_in_words

SHAPES = ((40, 30), (7,), (2000,))
# What each number is multiplied by, the limit, the type, and whether the last rank owns nothing but padding.
CASES = (
    (1.0, 5.0, "float32", False),
    (1.0, 1e6, "float32", False),  # nothing to clip
    (3.0, 1.0, "float32", True),
    (300.0, 1.0, "float16", False),  # a square is more than fp16 can hold
    (0.0, 1.0, "float32", False),
)


def _clip(answer):
    for ranks, facts in Worlds().run(partial(_in_this_world, answer)):
        require_own_work(facts)
        for number, case in enumerate(CASES):
            _judge([fact["cases"][number] for fact in facts], case, ranks)
        sent = facts[0]["sent"]
        if ranks > 1 and sum(sent.values()) > 1024:
            raise Mistaken("sends gradients", ranks=ranks_in_words(ranks), sent=in_words(sent))
        if ranks == RANKS:
            fact = facts[0]
    elements = sum(len(part) for part in _slices(0, 1.0, "float32", 0, 1, False))
    return (
        f"Measured on 4 ranks: {in_words(fact['sent'])} for the norm of {elements:,} gradients, "
        f"{fact['cases'][0]['norm']:.3f}; plain PyTorch on the whole gradients says {fact['cases'][0]['right']:.3f}."
    )


def _in_this_world(answer):
    import torch
    import torch.distributed as dist

    rank, ranks, called, watch = dist.get_rank(), dist.get_world_size(), [], Watch()
    for seed, (scale, limit, kind, empty) in enumerate(CASES):
        of_ranks = [_slices(seed, scale, kind, r, ranks, empty) for r in range(ranks)]
        before, row = of_ranks[rank], torch.cat(of_ranks[rank])
        sizes = [len(part) for part in before]
        counted = watch.call(answer, list(row.split(sizes)), limit)  # views of one row, as DeepSpeed's slices are
        called.append((counted.result, row.split(sizes), before, of_ranks, limit))
        sent = counted.sent
    cases = [_distances(*each) for each in called]  # not before: a rank that has failed would leave the others waiting
    return {"cases": cases, "sent": sent, "borrowed": sorted(watch.borrowed)}


def _slices(seed, scale, kind, rank, ranks, empty):
    """Return one rank's slices of the gradients, each padded with zeros to equal shares."""
    import torch

    owners = max(1, ranks - 1) if empty else ranks
    slices = []
    for whole in new_tensors(SHAPES, seed, 77):
        flat = whole.flatten() * scale
        share = -(-flat.numel() // owners)
        row = torch.nn.functional.pad(flat, (0, share * ranks - flat.numel()))
        slices.append(row[rank * share : (rank + 1) * share].to(getattr(torch, kind)).clone())
    return slices


def _distances(norm, given, before, of_ranks, limit):
    import torch

    if isinstance(norm, torch.Tensor) and norm.numel() == 1:
        norm = norm.item()
    if not is_number(norm):
        raise Unusable(f"Your function returned {describe(norm)}: return the norm as a float.")
    of_rank = [torch.cat([part.float() for part in parts]).norm().item() for parts in of_ranks]
    right = torch.tensor(of_rank).double().norm().item()
    mine = torch.cat([part.float() for part in before]).norm().item()

    def scaled(by):
        factor = min(1.0, limit / (by + 1e-6))
        return [part.float() * factor for part in before]

    largest = max(part.float().abs().max().item() for part in before) or 1.0
    apart = {"right": farthest(given, scaled(right)), "own": farthest(given, scaled(mine))}
    apart |= {"sum": farthest(given, scaled(sum(of_rank))), "untouched": farthest(given, before)}
    apart["always"] = farthest(given, [part.float() * limit / (right + 1e-6) for part in before])
    apart = {name: distance / largest for name, distance in apart.items()}
    finite = norm if abs(norm) < 1e30 else 1e30
    return {"norm": finite, "right": right, "mine": mine, "sum": sum(of_rank), "apart": apart}


def _judge(facts, case, ranks):
    scale, limit, kind, _ = case
    right = facts[0]["right"]
    norms_right = all(abs(fact["norm"] - right) <= 1e-3 * right + 1e-6 for fact in facts)
    if norms_right and all(fact["apart"]["right"] < 2e-3 for fact in facts):
        return
    values = {"ranks": ranks_in_words(ranks), "limit": f"{limit:g}", "right": f"{right:.4g}", "kind": kind}
    values["said"] = " and ".join(f"{fact['norm']:.4g}" if fact["norm"] < 1e30 else "no number" for fact in facts)
    if kind == "float16" and not norms_right:
        raise Mistaken("overflow", **values)
    if ranks > 1 and all(abs(fact["norm"] - fact["mine"]) < 1e-3 * right for fact in facts):
        raise Mistaken("own norm", **values)
    if ranks > 1 and all(abs(fact["norm"] - fact["sum"]) < 1e-3 * right for fact in facts):
        raise Mistaken("sum of norms", **values)
    if not norms_right:
        raise Mistaken("another norm", **values)
    if right <= limit:
        raise Mistaken("always" if all(fact["apart"]["always"] < 2e-3 for fact in facts) else "below", **values)
    if all(fact["apart"]["untouched"] < 1e-6 for fact in facts):
        raise Mistaken("untouched", **values)
    raise Mistaken("another scale", **values)


MISTAKES = {
    "own norm": Mistake(
        "On {ranks} the norms that were returned are {said}, and the whole gradient's is {right}: each rank has taken "
        "the norm of its own slices. The ranks would scale their slices differently, and the update would point "
        "elsewhere."
    ),
    "sum of norms": Mistake(
        "On {ranks} the norm that was returned is {said}, the sum of the ranks' norms; the whole gradient's is "
        "{right}.",
        "Which number of a rank may be added to another rank's?",
    ),
    "overflow": Mistake(
        "With slices in {kind} on {ranks} the norm that was returned is {said}, and it is {right}. Usually the squares "
        "were computed in {kind}: the square of 300 is 90,000, and the largest number in fp16 is 65,504.",
        "In which type do you square?",
    ),
    "another norm": Mistake(
        "On {ranks} the norm that was returned is {said}, and the whole gradient's is {right}.",
        "The norm is the root of the sum of all squares, of all slices on all ranks.",
    ),
    "always": Mistake(
        "On {ranks} the norm {right} is within the limit {limit}, and the gradients have been blown up to the limit. "
        "Clipping makes gradients smaller or leaves them as they are."
    ),
    "below": Mistake("On {ranks} the norm {right} is within the limit {limit}, and the gradients have been changed."),
    "untouched": Mistake(
        "On {ranks} the norm {right} is above the limit {limit}, and the slices that your function was given are as "
        "they were: change them in place."
    ),
    "another scale": Mistake(
        "On {ranks} the returned norm is right, {right}, and the slices are not scaled by limit / norm, the limit "
        "being "
        "{limit}.",
    ),
    "sends gradients": Mistake(
        "The result is right, and on {ranks} your function sends {sent}. One number from each rank is enough: nobody "
        "needs another rank's gradients to know their norm."
    ),
    **EVERYWHERE,
}


EXERCISE = Exercise(
    id="10-clip",
    title="A norm of what nobody has whole",
    difficulty=3,
    minutes=10,
    target="in worlds of 1, 2, 3 and 4 ranks the norm and the clipped slices are those of plain PyTorch on the whole "
    "gradients, for a few bytes",
    answer="clip_sharded",
    check=_clip,
    ranks=RANKS,
    seconds=30,
    mistakes=MISTAKES,
)
