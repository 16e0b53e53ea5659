"""Exercise 10-average: Data parallelism by hand."""

from functools import partial

from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_10_build_zero.by_deepspeed import first_weights, gradients, trained
from labsupport.exercises.lab_10_build_zero.worlds import (
    EVERYWHERE,
    RANKS,
    Watch,
    Worlds,
    farthest,
    in_words,
    require_own_work,
)
from labsupport.wording import first_line, ranks_in_words

SHAPES = ((25, 40),) * RANKS  # alike, so that an answer which confuses them is wrong and does not hang
BYTES = 4 * 25 * 40 * RANKS
# How many samples each rank has, and whether rank r lacks a gradient for weight r.
CASES = (((2, 2, 2, 2), False), ((3, 1, 2, 6), False), ((3, 1, 2, 6), True), ((1, 5, 1, 1), True))


def _average(answer):
    by_deepspeed = trained(SHAPES, 0, "sgd", 1, seed=0)
    for ranks, facts in Worlds().run(partial(_in_this_world, answer, by_deepspeed)):
        require_own_work(facts)
        for number, (samples, missing) in enumerate(CASES):
            _judge([fact["cases"][number] for fact in facts], samples[:ranks], missing)
        _judge_traffic(facts[0], ranks)
        if ranks == RANKS:
            fact = facts[0]
    return (
        f"Measured on 4 ranks: {in_words(fact['sent'])}, so {fact['wire']:,.0f} bytes leave each rank for "
        f"{BYTES:,} bytes of gradients. DeepSpeed's stage 0 gives the same gradients, to {fact['from_deepspeed']:.1g}."
    )


def _in_this_world(answer, by_deepspeed):
    import torch
    import torch.distributed as dist

    watch, rank, ranks, cases = Watch(), dist.get_rank(), dist.get_world_size(), []
    for seed, (samples, missing) in enumerate(CASES):
        parameters = first_weights(SHAPES, seed)
        theirs = [[None if missing and r == n else g for n, g in enumerate(_of(seed, r))] for r in range(ranks)]
        for parameter, gradient in zip(parameters, theirs[rank], strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        try:
            counted = watch.call(answer, parameters, samples[rank])
        except Unusable as problem:
            if isinstance(problem.error, TypeError | AttributeError) and None in theirs[rank]:
                raise Mistaken("fails on None", said=first_line(problem.error)) from problem
            raise
        cases.append(_distances([p.grad for p in parameters], theirs, samples[:ranks], rank))
        cases[-1]["moved"] = farthest(parameters, first_weights(SHAPES, seed))
        if seed == 0:
            sent, wire = counted.sent, counted.wire_bytes()
            given = [torch.zeros(SHAPES[0]) if p.grad is None else p.grad for p in parameters]
            stepped = [w - g for w, g in zip(first_weights(SHAPES, 0), given, strict=True)]
            apart = farthest(stepped, by_deepspeed)
    return {"cases": cases, "sent": sent, "wire": wire, "from_deepspeed": apart, "borrowed": sorted(watch.borrowed)}


def _of(seed, rank):
    return gradients(SHAPES, seed, 0, rank)


def _distances(given, theirs, samples, rank):
    """Return how far the reader's gradients are from the right ones, and from what well-known mistakes give."""
    import torch

    def combined(weights):
        zero = torch.zeros(SHAPES[0])
        return [
            sum((w * (zero if g is None else g) for w, g in zip(weights, same, strict=True)), zero)
            for same in zip(*theirs, strict=True)
        ]

    total, ranks = sum(samples), len(samples)
    means = [own / total for own in samples]
    by_name = {
        "right": combined(means),
        "own": combined([float(r == rank) for r in range(ranks)]),
        "summed": combined([1.0] * ranks),
        "weighted, not divided": combined([float(own) for own in samples]),
        "alike": combined([1 / ranks] * ranks),
        "divided twice": combined([mean / ranks for mean in means]),
    }
    lacking = [g is None and any(of[n] is not None for of in theirs) for n, g in enumerate(given)]
    given = [torch.zeros(SHAPES[0]) if g is None else g for g in given]
    if any(g.shape != SHAPES[0] for g in given):
        raise Unusable("A gradient has another shape after your function: a gradient is of its weight's shape.")
    return {name: farthest(given, right) for name, right in by_name.items()} | {"lacking": any(lacking)}


def _judge(facts, samples, missing):
    ranks, said = len(samples), " and ".join(map(str, samples))
    if all(fact["right"] < 1e-5 and not fact["lacking"] for fact in facts):
        if any(fact["moved"] for fact in facts):
            raise Mistaken("weights moved", moved=f"{max(fact['moved'] for fact in facts):.2g}")
        return
    worst = max(fact["right"] for fact in facts)
    values = {"ranks": ranks_in_words(ranks), "samples": said, "apart": f"{worst:.2g}"}
    for name in ("own", "summed", "weighted, not divided", "alike", "divided twice"):
        if all(fact[name] < 1e-5 for fact in facts):
            raise Mistaken(name, **values)
    right = [rank for rank, fact in enumerate(facts) if fact["right"] < 1e-5]
    if right and not missing:
        raise Mistaken("some ranks", right=right[0], wrong=next(r for r in range(ranks) if r not in right), **values)
    if missing:
        raise Mistaken("no gradient", **values)
    raise Mistaken("another", **values)


def _judge_traffic(fact, ranks):
    least = 2 * (ranks - 1) / ranks * BYTES
    if ranks > 2 and fact["wire"] > 1.1 * least:
        wire, least = f"{fact['wire']:,.0f}", f"{least:,.0f}"
        raise Mistaken("sends more", ranks=ranks_in_words(ranks), sent=in_words(fact["sent"]), wire=wire, least=least)


MISTAKES = {
    "own": Mistake(
        "On {ranks} each rank still has its own gradients, {apart} off the mean: what was computed did not reach "
        "`p.grad`.",
        "A collective such as `all_reduce` changes the tensor that it is given.",
    ),
    "summed": Mistake(
        "On {ranks} each gradient is the plain sum over the ranks. A loss that is a mean has a gradient that is a mean."
    ),
    "weighted, not divided": Mistake(
        "With {samples} samples on {ranks} each gradient is the sum of samples x gradient: it has to be divided "
        "by all the samples of all ranks.",
        "No rank knows that number; an all-reduce of one number tells it.",
    ),
    "alike": Mistake(
        "With {samples} samples on {ranks} the gradients are {apart} off: you have taken the mean over the ranks, "
        "so that one sample of a small micro-batch counts more than one of a large micro-batch.",
        "How many samples does each rank's gradient stand for?",
    ),
    "divided twice": Mistake(
        "On {ranks} the gradients are right but for a factor: they have been divided by the number of ranks once "
        "more than the mean over samples asks for."
    ),
    "some ranks": Mistake(
        "On {ranks}, rank {right} has the right gradients and rank {wrong} has not. Every rank updates its own "
        "copy of the weights, so every rank needs the mean."
    ),
    "no gradient": Mistake(
        "Where a rank's micro-batch did not use a weight (`p.grad` is None there), the gradients after your function "
        "are {apart} off, on {ranks} with {samples} samples. That rank's loss does not depend on the weight: "
        "it adds zeros, and it still has to answer each collective of the others.",
        "A rank that leaves one collective out answers the next one in its place.",
    ),
    "fails on None": Mistake(
        "Where a rank's micro-batch did not use a weight your function raises {said}: `p.grad` is None there.",
        "What does a weight that was not used add to the sum?",
    ),
    "sends more": Mistake(
        "The gradients are right, and on {ranks} each rank sends {wire} bytes ({sent}); one all-reduce of the "
        "gradients sends {least}. Usually every rank hands its whole gradients to every other.",
    ),
    "weights moved": Mistake(
        "The gradients are right, and a weight has moved by {moved}. Your function stands before the step, which the "
        "optimizer makes afterwards: with both, each update would be made twice."
    ),
    "another": Mistake(
        "With {samples} samples on {ranks} a gradient is {apart} off that of plain PyTorch on all samples.",
        "Try it with one number on each rank: what should come out?",
    ),
    **EVERYWHERE,
}


EXERCISE = Exercise(
    id="10-average",
    title="Data parallelism by hand",
    difficulty=2,
    minutes=10,
    target="in worlds of 1, 2, 3 and 4 ranks, with equal and unequal numbers of samples, every gradient is that of "
    "plain PyTorch on all samples",
    answer="average_gradients",
    check=_average,
    ranks=RANKS,
    seconds=60,
    mistakes=MISTAKES,
)
