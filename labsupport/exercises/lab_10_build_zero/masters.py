"""Exercise 10-masters: Mixed precision by hand."""

import functools

from labsupport.exercises.exercise import Exercise, Mistake, Mistaken
from labsupport.exercises.lab_10_build_zero.by_deepspeed import LR
from labsupport.exercises.lab_10_build_zero.sharded import SHAPES, WEIGHTS, require_step, share_of
from labsupport.exercises.lab_10_build_zero.worlds import (
    EVERYWHERE,
    RANKS,
    Watch,
    Worlds,
    bytes_reached_from,
    in_words,
    new_tensors,
    require_own_work,
)
from labsupport.wording import ranks_in_words

STEPS = 24
RATE = 4.5e-4  # of a weight near 1, where neighbours in bf16 are 0.004 and 0.008 apart: alone no step is seen


def _masters(answer):
    for ranks, facts in Worlds().run(functools.partial(_in_this_world, answer)):
        require_own_work(facts)
        _judge(facts, ranks)
        _judge_bytes(facts, ranks)
        if ranks == RANKS:
            fact = facts[0]
    return (
        f"Measured on 4 ranks after {STEPS} steps of {RATE:g}: {fact['moved']:,} of {WEIGHTS:,} bf16 weights have "
        f"moved, "
        f"and no weight is more than {fact['right']:.1g} from an fp32 master of plain PyTorch. A rank keeps "
        f"{fact['kept']:,} bytes beside them, {fact['kept'] / WEIGHTS:.2f} a weight; a step sends "
        f"{in_words(fact['sent'])}."
    )


def adam_over(tensors):
    """The make_optimizer that the check hands over for most of the steps."""
    import torch

    return torch.optim.Adam(tensors, lr=RATE)


def sgd_over(tensors):
    """One that shows the scale of a gradient, which Adam does not."""
    import torch

    return torch.optim.SGD(tensors, lr=10 * LR)


def _weights():
    """Return bf16 weights near 1 and -1."""
    import torch

    return [torch.nn.Parameter((w.sign() * 1.0 + w / 50).bfloat16()) for w in new_tensors(SHAPES, 6, 6)]


@functools.cache
def _gradients(step, rank):
    """Return one rank's bf16 gradients: mostly the same direction in every step, and never the same on two ranks."""
    slopes, noise = new_tensors(SHAPES, 6, 8), new_tensors(SHAPES, 1 + step, 1 + rank)
    size = 3.0 if step % 4 == 3 else 0.2  # so that Adam with its states goes elsewhere than without
    return [(size * (slope.sign() * (2 + rank) + own / 4)).bfloat16() for slope, own in zip(slopes, noise, strict=True)]


def _in_this_world(answer):
    import torch
    import torch.distributed as dist

    rank, ranks, watch = dist.get_rank(), dist.get_world_size(), Watch()
    parameters = _weights()
    first = [p.detach().clone() for p in parameters]
    step = require_step(watch.call(answer, parameters, adam_over).result)
    for number in range(STEPS):
        for parameter, gradient in zip(parameters, _gradients(number, rank), strict=True):
            parameter.grad = gradient.clone()
        if number < 2:
            counted = watch.call(step)
        else:
            step()
        if any(p.dtype != torch.bfloat16 for p in parameters):
            return {"kinds": [str(p.dtype) for p in parameters], "borrowed": sorted(watch.borrowed)}
    for parameter in parameters:
        parameter.grad = None
    kinds = [str(p.dtype) for p in parameters]
    fact = {"kept": bytes_reached_from(step, parameters) - 2 * WEIGHTS, "sent": counted.sent, "kinds": kinds}
    by_master = _plain(adam_over, STEPS, ranks)
    moved = sum(int((p != f).sum()) for p, f in zip(parameters, first, strict=True))
    fact |= {"moved": moved, "right": _apart(parameters, by_master), "still": _apart(by_master, first)}
    fact["bf16"] = _apart(parameters, _plain(adam_over, STEPS, ranks, masters=False))
    parameters = _weights()
    step = require_step(watch.call(answer, parameters, sgd_over).result)
    for parameter, gradient in zip(parameters, _gradients(0, rank), strict=True):
        parameter.grad = gradient.clone()
    watch.call(step)
    right = _plain(sgd_over, 1, ranks)
    summed = [f - ranks * (f - r) for f, r in zip(first, right, strict=True)]
    fact |= {"with sgd": _apart(parameters, right), "summed": _apart(parameters, summed)}
    return fact | {"borrowed": sorted(watch.borrowed), "equal": _alike(parameters, torch, dist)}


def _alike(parameters, torch, dist):
    mine = torch.cat([p.detach().float().flatten() for p in parameters])
    largest, smallest = mine.clone(), mine.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return bool((largest == smallest).all())


@functools.cache
def _plain(make, steps, ranks, masters=True):
    """Return the weights that plain torch comes to, in fp32 all the time or from bf16 to bf16."""
    import torch

    weights = [torch.nn.Parameter(w.detach().float() if masters else w.detach().clone()) for w in _weights()]
    optimizer = make(weights)
    for number in range(steps):
        of_ranks = [_gradients(number, rank) for rank in range(ranks)]
        for weight, same in zip(weights, zip(*of_ranks, strict=True), strict=True):
            weight.grad = torch.stack([gradient.float() for gradient in same]).mean(0).to(weight.dtype)
        optimizer.step()
    return [weight.detach().float() for weight in weights]


def _apart(some, others):
    """The largest relative distance."""
    return min(1e30, max(((one.detach().float() - other) / other.abs().clamp(min=0.1)).abs().max().item()
                         for one, other in zip(some, others, strict=True)))  # fmt: skip


def _judge(facts, ranks):
    kinds = sorted({kind for fact in facts for kind in fact["kinds"]})
    values = {"ranks": ranks_in_words(ranks), "steps": STEPS, "kinds": " and ".join(kinds)}
    if kinds != ["torch.bfloat16"]:
        raise Mistaken("not bf16", **values)
    values["apart"] = f"{max(fact['right'] for fact in facts):.2g}"
    values |= {"moved": min(fact["moved"] for fact in facts), "all": f"{WEIGHTS:,}"}
    if any(fact["moved"] == 0 for fact in facts):
        raise Mistaken("nothing moves", **values)
    if not all(fact["equal"] for fact in facts):
        raise Mistaken("ranks differ", **values)
    if ranks > 1 and all(fact["summed"] < 0.02 < fact["with sgd"] for fact in facts):
        raise Mistaken("summed", **values)
    if any(fact["right"] > 0.0028 for fact in facts):  # rounded they are 0.0012 off
        raise Mistaken("another", **values)
    if any(fact["with sgd"] > 0.02 for fact in facts):
        raise Mistaken("another gradient", off=f"{max(fact['with sgd'] for fact in facts):.2g}", **values)


def _judge_bytes(facts, ranks):
    most, sent = max(fact["kept"] for fact in facts), facts[0]["sent"]
    if ranks > 2 and most > 16 * share_of(ranks) + 1024:
        allowed = f"{12 * share_of(ranks):,}"
        raise Mistaken("too much kept", ranks=ranks_in_words(ranks), kept=f"{most:,}", allowed=allowed)
    if ranks < 3:
        return
    gathered = sent.get("all_gather", 0) * ranks + sent.get("broadcast", 0)
    whole = {"ranks": ranks_in_words(ranks), "sent": in_words(sent)}
    if sent.get("all_reduce", 0) > WEIGHTS:
        raise Mistaken("all reduced", **whole)
    if gathered > 3 * WEIGHTS:
        raise Mistaken("gathers fp32", gathered=f"{gathered:,}", half=f"{2 * WEIGHTS:,}", **whole)


MISTAKES = {
    "not bf16": Mistake(
        "After your step the parameters are {kinds}. The model computes with bf16 weights: the fp32 copy is the "
        "optimizer's."
    ),
    "nothing moves": Mistake(
        "On {ranks} no weight has moved after {steps} steps, each of some 0.0005. The next bf16 number is 0.004 below "
        "1 and 0.008 above it, so each step was rounded away before the next one came.",
        "Where do the parts of a step that bf16 cannot show have to wait for the next one?",
    ),
    "ranks differ": Mistake(
        "On {ranks} the bf16 weights are not the same on all ranks. Usually a rank keeps its own slice as it is, and "
        "the others get a rounded one."
    ),
    "summed": Mistake(
        "On {ranks}, with plain SGD, the weights have moved as by the sum of the gradients over the ranks."
    ),
    "another": Mistake(
        "On {ranks} {moved} of {all} weights have moved after {steps} steps, and the farthest is {apart} of its value "
        "from an fp32 master of plain PyTorch; rounding to bf16 explains 0.0012.",
        "Is the master still the number that the last step left, or is it made anew from the bf16 weight?",
    ),
    "another gradient": Mistake(
        "On {ranks} Adam ends where it must, and after one step of plain SGD a weight is {off} of its value off: what "
        "the optimizer got is not the mean of the gradients over the ranks.",
        "Adam divides by the gradient's own size, and hides much.",
    ),
    "too much kept": Mistake(
        "The weights are right, and on {ranks} a rank keeps {kept} bytes beside them. A master and Adam's two states "
        "of "
        "its share, all in fp32, take {allowed}."
    ),
    "all reduced": Mistake(
        "The weights are right, and on {ranks} a step sends {sent}. A rank needs the mean of its own slice alone: a "
        "reduce-scatter sends half of an all-reduce."
    ),
    "gathers fp32": Mistake(
        "The weights are right, and on {ranks} a step sends {sent}: {gathered} bytes of new weights, where bf16 takes "
        "{half}. What is rounded after it has travelled can be rounded before."
    ),
    **EVERYWHERE,
}


EXERCISE = Exercise(
    id="10-masters",
    title="Masters in fp32, weights in bf16",
    difficulty=4,
    minutes=15,
    target="in worlds of 1, 2, 3 and 4 ranks 24 steps that bf16 cannot see one by one end where fp32 ends, with a "
    "share of the masters on each rank and bf16 weights on the way",
    answer="shard_mixed",
    check=_masters,
    ranks=RANKS,
    seconds=60,
    mistakes=MISTAKES,
)
