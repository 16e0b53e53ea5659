"""Exercise 10-buckets: Stage 2 by hand."""

import functools
import math

from labsupport.exercises.answers import describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_10_build_zero.sharded import require_step
from labsupport.exercises.lab_10_build_zero.worlds import (
    EVERYWHERE,
    RANKS,
    Watch,
    Worlds,
    bytes_reached_from,
    farthest,
    in_words,
    new_tensors,
    require_own_work,
)
from labsupport.wording import ranks_in_words

WIDTH, LAYERS, LAST = 64, 32, 5
WEIGHTS = LAYERS * WIDTH**2 + LAST * WIDTH + LAST  # the last layer's bias has 5 elements: padding everywhere but alone
BUCKET = 10_000  # more than two layers and fewer than three
BACKWARDS = 2


def _buckets(answer):
    for ranks, facts in Worlds().run(functools.partial(_in_this_world, answer)):
        require_own_work(facts)
        for number in range(BACKWARDS):
            _judge([fact["shards"][number] for fact in facts], number, ranks)
        _judge_bytes(facts, ranks)
        _judge_messages(facts[0], ranks)
        if ranks == RANKS:
            fact = facts[0]
    return (
        f"Measured on 4 ranks: at its peak the backward pass holds {fact['peak']:,} bytes more than before it, for "
        f"{4 * WEIGHTS:,} bytes of gradients, and leaves {fact['held']:,}. {fact['count']} messages of at most "
        f"{fact['largest']:,} bytes: {in_words(fact['sent'])}, so {fact['wire']:,.0f} bytes leave each rank."
    )


def _model():
    import torch

    torch.manual_seed(3)
    body = [torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)]
    for layer in body:  # so that what goes in has not faded away when it comes out
        torch.nn.init.orthogonal_(layer.weight)
    return torch.nn.Sequential(*body, torch.nn.Linear(WIDTH, LAST))


def _loss(model, number, rank):
    return (model(new_tensors([(2, WIDTH)], number, rank, 5)[0]) - 1).pow(2).mean()


def _in_this_world(answer):
    import torch.distributed as dist

    rank, ranks, watch, model, shards = dist.get_rank(), dist.get_world_size(), Watch(), _model(), []
    parameters = list(model.parameters())
    finish = require_step(watch.call(answer, parameters, BUCKET).result)
    for number in range(BACKWARDS):
        loss = _loss(model, number, rank)

        def backward(loss=loss):
            loss.backward()
            return finish()

        counted = watch.call(backward, memory=number == 1)
        shards.append(_distances(counted.result, parameters, number, rank, ranks))
        kept = sum(p.grad is not None for p in parameters)
        for parameter in parameters:
            parameter.grad = None
    sizes = [size for _, size in counted.messages]
    fact = {"shards": shards, "kept": kept, "sent": counted.sent, "wire": counted.wire_bytes(), "count": len(sizes)}
    fact |= {"largest": max(sizes, default=0), "peak": counted.peak_bytes, "borrowed": sorted(watch.borrowed)}
    return fact | {"held": bytes_reached_from(counted.result)}


def _distances(returned, parameters, number, rank, ranks):
    """Return how far the shards are from this rank's parts of the mean, and from what well-known mistakes give."""
    import torch

    if not isinstance(returned, list | tuple) or len(returned) != len(parameters):
        given = f"a list of {len(returned)}" if isinstance(returned, list | tuple) else describe(returned)
        raise Unusable(f"`finish` returned {given}: return one tensor for each of the {len(parameters)} parameters.")
    wholes = [_whole_gradients(number, r) for r in range(ranks)]
    mean = [torch.stack(same).mean(0) for same in zip(*wholes, strict=True)]

    def parts(gradients, of=rank):
        padded = [torch.nn.functional.pad(g.flatten(), (0, -g.numel() % ranks)) for g in gradients]
        return [row.chunk(ranks)[of] for row in padded]

    by_name = {"right": parts(mean), "summed": [ranks * part for part in parts(mean)], "own": parts(wholes[rank])}
    by_name["backwards"] = list(reversed(parts(mean)))
    if number:
        earlier = [_whole_gradients(0, r) for r in range(ranks)]
        before = parts([torch.stack(same).mean(0) for same in zip(*earlier, strict=True)])
        by_name["both"] = [now + then for now, then in zip(parts(mean), before, strict=True)]
    lengths = [part.numel() if isinstance(part, torch.Tensor) else -1 for part in returned]
    if lengths != [part.numel() for part in by_name["right"]]:
        if lengths == [part.numel() for part in by_name["backwards"]]:
            return {"right": 1.0, "backwards": 0.0}
        wrong = next(n for n, part in enumerate(by_name["right"]) if lengths[n] != part.numel())
        return {"right": 1.0, "lengths": [wrong, lengths[wrong], by_name["right"][wrong].numel()]}
    scale = max(part.abs().max().item() for part in mean)
    return {name: _apart(returned, others) / scale for name, others in by_name.items() if _fits(returned, others)}


def _fits(some, others):
    return all(one.numel() == other.numel() for one, other in zip(some, others, strict=True))


def _apart(some, others):
    return farthest([one.flatten() for one in some], others)


@functools.cache
def _whole_gradients(number, rank):
    model = _model()
    _loss(model, number, rank).backward()
    return [parameter.grad for parameter in model.parameters()]


def _judge(facts, number, ranks):
    if all(fact["right"] < 1e-5 for fact in facts):
        return
    values = {"ranks": ranks_in_words(ranks), "call": ("first", "second")[number]}
    values["apart"] = f"{max(fact['right'] for fact in facts):.2g}"
    for name in ("summed", "own", "both", "backwards"):
        if all(fact.get(name, 1) < 1e-5 for fact in facts):
            raise Mistaken(name, **values)
    lengths = next((fact["lengths"] for fact in facts if "lengths" in fact), None)
    if lengths:
        raise Mistaken("another length", parameter=lengths[0], has=lengths[1], right=lengths[2], **values)
    raise Mistaken("another", **values)


def _judge_bytes(facts, ranks):
    kept, peak = max(fact["kept"] for fact in facts), max(fact["peak"] for fact in facts)
    if kept:
        raise Mistaken("kept whole", ranks=ranks_in_words(ranks), kept=kept)
    allowed = 4 * WEIGHTS / ranks + 6 * 4 * BUCKET
    if ranks > 1 and peak > allowed:
        whole = f"{4 * WEIGHTS:,}"
        raise Mistaken("peak", ranks=ranks_in_words(ranks), peak=f"{peak:,}", whole=whole, allowed=f"{allowed:,.0f}")


def _judge_messages(fact, ranks):
    if ranks == 1:
        return
    most = math.ceil(WEIGHTS / (BUCKET - WIDTH**2)) + 1
    values = {"ranks": ranks_in_words(ranks), "count": fact["count"], "sent": in_words(fact["sent"])}
    if fact["count"] > most:
        raise Mistaken("many messages", least=math.ceil(WEIGHTS / BUCKET), **values)
    least = (ranks - 1) / ranks * 4 * WEIGHTS
    if fact["wire"] > 1.1 * least:
        raise Mistaken("sends more", wire=f"{fact['wire']:,.0f}", least=f"{least:,.0f}", **values)


MISTAKES = {
    "summed": Mistake(
        "On {ranks} the shards are the sum over the ranks: a reduce-scatter adds up, and the mean is asked for."
    ),
    "own": Mistake("On {ranks} each rank has its part of its own gradients: they were cut, and never added up."),
    "both": Mistake(
        "On {ranks} the first backward pass is right, and after the second one the shards are the sum of both: what "
        "`finish` has handed out must not be added to again."
    ),
    "backwards": Mistake(
        "On {ranks} the shards are right and in the wrong order: the backward pass reaches the last parameter first, "
        "and `finish` has to return them in the order of `parameters`."
    ),
    "another length": Mistake(
        "On {ranks} the shard of parameter {parameter} has {has} elements, and a rank's part of it has {right}, "
        "padding "
        "counted.",
        "Pad each gradient by itself, to a multiple of the number of ranks.",
    ),
    "another": Mistake(
        "On {ranks} the shards of the {call} backward pass are {apart} off, measured by the largest gradient.",
        "How do the gradients of a bucket have to lie one beside the other, for a reduce-scatter to give rank r the "
        "r-th part of each?",
    ),
    "kept whole": Mistake(
        "On {ranks} the shards are right, and {kept} parameters still have a whole gradient after `finish`. Stage 2 "
        "lets go of a gradient as soon as its bucket is reduced.",
        "What keeps a gradient alive is `p.grad`.",
    ),
    "peak": Mistake(
        "On {ranks} the shards are right, and within the backward pass a rank held {peak} bytes more than before it: "
        "the whole gradients are {whole}, and the shards with room for some buckets {allowed}. Usually the "
        "gradients are reduced only after the backward pass.",
        "The hook runs within the backward pass. What may it already do there?",
    ),
    "many messages": Mistake(
        "On {ranks} the shards are right, and a backward pass sends {count} messages; buckets of the size that was "
        "given would need about {least}. A small message costs nearly as much time as a large one.",
    ),
    "sends more": Mistake(
        "On {ranks} the shards are right, and a backward pass sends {sent}: {wire} bytes from each rank, where a "
        "reduce-scatter sends {least}. A rank needs only its part of the sum."
    ),
    **EVERYWHERE,
}


EXERCISE = Exercise(
    id="10-buckets",
    title="Stage 2 by hand",
    difficulty=5,
    minutes=30,
    target="in worlds of 1, 2, 3 and 4 ranks the shards are the parts of the mean gradient, in two backward passes, "
    "with a peak well below the whole gradients and a message for each bucket",
    answer="shard_gradients",
    check=_buckets,
    ranks=RANKS,
    seconds=60,
    mistakes=MISTAKES,
)
