"""Exercise 10-sharded-linear: Stage 3 by hand."""

from functools import partial

from labsupport.exercises.answers import describe
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

INPUTS, OUTPUTS, TOKENS = 60, 50, 3  # 50 rows: two ranks divide them, three and four do not
WHOLE = 4 * INPUTS * OUTPUTS
BACKWARDS = 2


def _sharded_linear(answer):
    for ranks, facts in Worlds().run(partial(_in_this_world, answer)):
        require_own_work(facts)
        for number in range(BACKWARDS):
            _judge([fact["passes"][number] for fact in facts], number, ranks)
        _judge_bytes(facts, ranks)
        if ranks == RANKS:
            fact = facts[0]
    return (
        f"Measured on 4 ranks, for a weight of {WHOLE:,} bytes: the forward pass leaves {fact['kept']:,} bytes, the "
        f"result being {4 * TOKENS * OUTPUTS}; it sends {in_words(fact['forward'])}, and the backward pass "
        f"{in_words(fact['backward'])}: {fact['wire']:,.0f} bytes from each rank, "
        f"{fact['wire'] / _all_reduce(RANKS):.2f} "
        "times data parallelism."
    )


def _all_reduce(ranks):
    return 2 * (ranks - 1) / ranks * WHOLE


def _weight():
    return new_tensors([(OUTPUTS, INPUTS)], 31, 2)[0]


def _data(number, rank):
    """Return one rank's inputs and the gradient of its outputs."""
    return new_tensors([(TOKENS, INPUTS), (TOKENS, OUTPUTS)], number, 1 + rank, 4)


def _in_this_world(answer):
    import torch
    import torch.distributed as dist

    rank, ranks, watch, passes, kept = dist.get_rank(), dist.get_world_size(), Watch(), [], []
    share = -(-OUTPUTS // ranks)
    padded = torch.nn.functional.pad(_weight(), (0, 0, 0, share * ranks - OUTPUTS))
    shard = torch.nn.Parameter(padded[rank * share : (rank + 1) * share].clone())
    expected, weight = torch.zeros(share * ranks, INPUTS), _weight()
    for number in range(BACKWARDS):  # the second adds to the first, as accumulation does
        if number:
            shard.data.neg_()  # as a step changes it
            weight.neg_()
        x, grad_y = _data(number, rank)
        x.requires_grad_()
        forward = watch.call(answer, x, shard, OUTPUTS, memory=True)
        y = forward.result
        _require_result(y)
        kept.append(forward.kept_bytes)
        right = x.detach() @ weight.T
        fact = {"y": farthest([y.detach()], [right]), "old": farthest([y.detach()], [-right])}
        backward = watch.call(y.backward, grad_y)
        for r in range(ranks):
            inputs, grads = _data(number, r)
            expected[:OUTPUTS] += grads.T @ inputs / ranks
        fact |= {"x": 1.0 if x.grad is None else farthest([x.grad], [grad_y @ weight])}
        passes.append(fact | _shard_distances(shard.grad, expected, x.detach(), grad_y, rank, ranks, share))
    wire = forward.wire_bytes() + backward.wire_bytes()
    # The thread of a collective may let go of the weight a moment after the answer does, and then nobody sees it freed.
    fact = {"passes": passes, "kept": min(kept), "forward": forward.sent, "backward": backward.sent}
    return fact | {"wire": wire, "borrowed": sorted(watch.borrowed)}


def _require_result(y):
    import torch

    if not isinstance(y, torch.Tensor) or tuple(y.shape) != (TOKENS, OUTPUTS):
        shape = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, torch.Tensor) else describe(y)
        raise Unusable(f"Your function returned {shape}: for these inputs it has to be ({TOKENS}, {OUTPUTS}).")
    if not y.requires_grad:
        raise Unusable("What your function returned knows no backward pass: it was computed outside of autograd.")


def _shard_distances(given, expected, x, grad_y, rank, ranks, share):
    import torch

    mine = expected[rank * share : (rank + 1) * share]
    if given is None or given.shape != mine.shape:
        return {"shard": "none" if given is None else str(tuple(given.shape))}
    own = torch.nn.functional.pad(grad_y.T @ x, (0, 0, 0, share * ranks - OUTPUTS))[rank * share : (rank + 1) * share]
    by_name = {"shard": mine, "summed": mine * ranks, "own": own}
    return {name: farthest([given], [other]) for name, other in by_name.items()}


def _judge(facts, number, ranks):
    values = {"ranks": ranks_in_words(ranks), "call": ("first", "second")[number]}
    if number and all(fact["old"] < 1e-3 for fact in facts):
        raise Mistaken("old weight", **values)
    for name in ("y", "x"):
        apart = max(fact[name] for fact in facts)
        if apart > 1e-3:
            raise Mistaken({"y": "another result", "x": "gradient of x"}[name], apart=f"{apart:.2g}", **values)
    told = next((fact["shard"] for fact in facts if isinstance(fact["shard"], str)), None)
    if told == "none":
        raise Mistaken("no gradient", **values)
    if told:
        raise Unusable(f"On {values['ranks']} the shard's gradient has the shape {told}, and the shard has another.")
    values["apart"] = f"{max(fact['shard'] for fact in facts):.2g}"
    if all(fact["shard"] < 1e-3 for fact in facts):
        return
    for name in ("summed", "own"):
        if number == 0 and all(fact[name] < 1e-3 for fact in facts):
            raise Mistaken(name, **values)
    raise Mistaken("second pass" if number else "another gradient", **values)


def _judge_bytes(facts, ranks):
    kept, fact = max(fact["kept"] for fact in facts), facts[0]
    values = {"ranks": ranks_in_words(ranks), "whole": f"{WHOLE:,}"}
    if ranks > 1 and kept > 4 * TOKENS * OUTPUTS + WHOLE / 3:
        raise Mistaken("weight kept", kept=f"{kept:,}", **values)
    least = 1.5 * _all_reduce(ranks)
    if ranks > 1 and fact["wire"] > 1.15 * least:
        values |= {"forward": in_words(fact["forward"]), "backward": in_words(fact["backward"])}
        raise Mistaken("sends more", wire=f"{fact['wire']:,.0f}", least=f"{least:,.0f}", **values)


MISTAKES = {
    "another result": Mistake(
        "On {ranks} the {call} result is {apart} off x W^T.",
        "The rows of all ranks one after the other are W, and behind its 50 rows there may be padding.",
    ),
    "old weight": Mistake(
        "On {ranks} the first result is right, and the second is that of the first weight. The shard has changed in "
        "between, as a step changes it: usually the gathered rows were kept, and no whole weight may be alive then.",
    ),
    "gradient of x": Mistake(
        "On {ranks} the result is right, and the gradient of x is {apart} off: it is grad_y W, with the whole W.",
    ),
    "no gradient": Mistake(
        "On {ranks} the result is right, and after the backward pass the shard has no gradient. An all-gather is "
        "nothing that autograd knows: what it fills has no history."
    ),
    "summed": Mistake(
        "On {ranks} the shard's gradient is the sum over the ranks: a reduce-scatter adds up, and the mean is asked "
        "for."
    ),
    "own": Mistake(
        "On {ranks} the shard's gradient is that of this rank's tokens alone. The other ranks have used the same rows "
        "on other tokens."
    ),
    "another gradient": Mistake(
        "On {ranks} the shard's gradient is {apart} off its part of the mean of grad_y^T x over the ranks.",
        "Pad the rows of grad_y^T x before you cut them.",
    ),
    "second pass": Mistake(
        "On {ranks} the first backward pass is right, and after a second one the shard's gradient is {apart} off: "
        "gradients of two backward passes add up."
    ),
    "weight kept": Mistake(
        "On {ranks} everything is right, and after the forward pass {kept} bytes stay, the weight being {whole}: the "
        "whole weight waits for the backward pass. With many layers all of them would be whole at once.",
        "What is saved for the backward pass? Everything that one of its formulas uses is kept, unless you gather it "
        "again.",
    ),
    "sends more": Mistake(
        "On {ranks} everything is right, and forward sends {forward}, backward {backward}: {wire} bytes from each "
        "rank, where two all-gathers and a reduce-scatter send {least}."
    ),
    **EVERYWHERE,
}


EXERCISE = Exercise(
    id="10-sharded-linear",
    title="Stage 3 by hand",
    difficulty=4,
    minutes=20,
    target="in worlds of 1, 2, 3 and 4 ranks result and gradients are those of plain PyTorch, the whole weight is gone "
    "after the forward pass, and two all-gathers and a reduce-scatter are sent",
    answer="sharded_linear",
    check=_sharded_linear,
    ranks=RANKS,
    seconds=30,
    mistakes=MISTAKES,
)
