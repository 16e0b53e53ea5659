"""Exercise 10-sharded-optimizer: Stage 1 by hand."""

from functools import partial

from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_10_build_zero.by_deepspeed import (
    first_weights,
    gradients,
    mean_gradients,
    trained,
)
from labsupport.exercises.lab_10_build_zero.sharded import (
    SHAPES,
    WEIGHTS,
    adam_over,
    require_step,
    sgd_over,
    share_of,
)
from labsupport.exercises.lab_10_build_zero.worlds import (
    EVERYWHERE,
    RANKS,
    Watch,
    Worlds,
    bytes_reached_from,
    farthest,
    in_words,
    require_own_work,
)
from labsupport.wording import ranks_in_words

STEPS = 3
CASES = ((sgd_over, 5), (adam_over, 0))  # the optimizer, and the seed of weights and gradients


def _sharded(answer):
    by_deepspeed = trained(SHAPES, 1, "adam", STEPS, seed=0)
    for ranks, facts in Worlds().run(partial(_in_this_world, answer, by_deepspeed)):
        require_own_work(facts)
        for number, (make, _) in enumerate(CASES):
            _judge([fact["cases"][number] for fact in facts], make is sgd_over, ranks)
        _judge_held(facts, ranks)
        _judge_sent(facts, ranks)
        if ranks == RANKS:
            fact = facts[0]
    if fact["from_deepspeed"] > 1e-6:
        raise Unusable(f"After {STEPS} steps a weight is {fact['from_deepspeed']:.2g} off DeepSpeed's stage 1.")
    return (
        f"Measured on 4 ranks: each keeps {fact['kept']:,} bytes beside the weights, where Adam's two states alone "
        f"would take {8 * WEIGHTS:,}; each step sends {in_words(fact['sent'])}, which is {fact['wire']:,.0f} bytes "
        f"from "
        f"each rank. After {STEPS} steps no weight is more than {fact['from_deepspeed']:.1g} from DeepSpeed's stage 1."
    )


def _in_this_world(answer, by_deepspeed):
    import torch.distributed as dist

    rank, ranks, cases = dist.get_rank(), dist.get_world_size(), []
    for make, seed in CASES:
        watch, parameters = Watch(), _parameters(seed)
        step = require_step(watch.call(answer, parameters, make).result)
        by_name, apart = _plain(make, seed, rank, ranks), []
        for number in range(STEPS):
            for parameter, gradient in zip(parameters, gradients(SHAPES, seed, number, rank), strict=True):
                parameter.grad = gradient
            counted = watch.call(step)
            apart.append({name: farthest(parameters, weights[number]) for name, weights in by_name.items()})
        cases.append(apart)
    for parameter in parameters:
        parameter.grad = None
    kept = bytes_reached_from(step, parameters) - 4 * WEIGHTS
    fact = {"cases": cases, "kept": kept, "sent": counted.sent, "wire": counted.wire_bytes()}
    return fact | {"from_deepspeed": farthest(parameters, by_deepspeed), "borrowed": sorted(watch.borrowed)}


def _parameters(seed):
    import torch

    return [torch.nn.Parameter(weight) for weight in first_weights(SHAPES, seed)]


def _plain(make, seed, rank, ranks):
    """Return {what was done: [the weights after each step]} of plain torch: the right thing, and what is not."""
    import torch

    def train(gradients_of, again=False):
        parameters, after = _parameters(seed), []
        optimizer = make(parameters)
        for number in range(STEPS):
            optimizer = make(parameters) if again else optimizer
            for parameter, gradient in zip(parameters, gradients_of(number), strict=True):
                parameter.grad = gradient
            optimizer.step()
            after.append([parameter.detach().clone() for parameter in parameters])
        return after

    def mean(number):
        return mean_gradients(SHAPES, seed, number, ranks)

    right, mask = train(mean), _own(rank, ranks)
    first = first_weights(SHAPES, seed)
    return {
        "right": right,
        "nothing": [first] * STEPS,
        "summed": train(lambda number: [ranks * gradient for gradient in mean(number)]),
        "own": train(lambda number: gradients(SHAPES, seed, number, rank)),
        "states lost": train(mean, again=True),
        "only its own": [[torch.where(m, n, o) for m, n, o in zip(mask, new, first, strict=True)] for new in right],
    }


def _own(rank, ranks):
    """Return for each tensor which of its elements lie in this rank's share of the row."""
    import torch

    share = -(-WEIGHTS // ranks)
    mine = (torch.arange(WEIGHTS) // share) == rank
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    return [part.view(shape) for part, shape in zip(mine.split(sizes), SHAPES, strict=True)]


def _judge(facts, with_sgd, ranks):
    """Raise unless all weights on all ranks are right after each step."""
    for number in range(STEPS):
        of_step = [fact[number] for fact in facts]
        if all(each["right"] < 1e-5 for each in of_step):
            continue
        values = {"ranks": ranks_in_words(ranks), "step": number + 1}
        values["apart"] = f"{max(each['right'] for each in of_step):.2g}"
        for name in ("nothing", "summed", "own", "states lost", "only its own"):
            if all(each[name] < 1e-5 for each in of_step):
                raise Mistaken(name, **values)
        if len({round(each["nothing"], 4) for each in of_step}) > 1:
            raise Mistaken("ranks differ", **values)
        raise Mistaken("another", **values)


def _judge_held(facts, ranks):
    most = max(fact["kept"] for fact in facts)
    if ranks > 2 and most > 16 * share_of(ranks) + 1024:
        allowed = f"{12 * share_of(ranks):,}"
        raise Mistaken("too much kept", ranks=ranks_in_words(ranks), kept=f"{most:,}", allowed=allowed)


def _judge_sent(facts, ranks):
    least = 2 * (ranks - 1) / ranks * 4 * WEIGHTS
    wire = max(fact["wire"] for fact in facts)
    if ranks > 1 and wire > 1.1 * least + 64:
        sent = in_words(facts[0]["sent"])
        values = {"ranks": ranks_in_words(ranks), "sent": sent, "wire": f"{wire:,.0f}", "least": f"{least:,.0f}"}
        raise Mistaken("all reduced" if "all_reduce" in facts[0]["sent"] else "sends more", **values)


MISTAKES = {
    "nothing": Mistake(
        "On {ranks} no weight has moved after step {step}. Usually the optimizer has updated a copy, and the copy was "
        "not written back into `p.data`, or the slice has no `.grad` when the optimizer steps."
    ),
    "summed": Mistake(
        "On {ranks}, with plain SGD, the weights have moved as by the sum of the gradients over the ranks. Adam would "
        "hide this: it divides by the gradient's own size.",
        "A reduce-scatter adds up; the mean is yours to make.",
    ),
    "own": Mistake(
        "On {ranks} every rank has trained by itself, with its own gradients alone: after step {step} a weight is "
        "{apart} off."
    ),
    "states lost": Mistake(
        "On {ranks} the first step is right, and step {step} is {apart} off: it is as if the optimizer had just been "
        "made. Its states have to live from one step to the next.",
        "Which line may run only once?",
    ),
    "only its own": Mistake(
        "On {ranks} each rank has updated its own slice, and the rest of its weights are the old ones. The new slices "
        "have to reach every rank."
    ),
    "ranks differ": Mistake(
        "On {ranks} the ranks have different weights after step {step}, up to {apart} off plain PyTorch.",
        "Print the first weights of every slice on every rank, after each line of your step.",
    ),
    "too much kept": Mistake(
        "The weights are right, and on {ranks} a rank keeps {kept} bytes between two steps. A copy of its slice and "
        "Adam's two states of it take {allowed}. Usually the optimizer is made over more than the slice, the whole row "
        "is kept, or whole tensors were given to ranks, so that one has more than its share.",
        "What do you hand to `make_optimizer`?",
    ),
    "all reduced": Mistake(
        "The weights are right, and on {ranks} a step sends {sent}: {wire} bytes from each rank, where reduce-scatter "
        "and all-gather send {least}. An all-reduce is both of them in one: it brings every rank the whole gradient, "
        "of which it needs a slice.",
    ),
    "sends more": Mistake(
        "The weights are right, and on {ranks} a step sends {sent}: {wire} bytes from each rank, where reduce-scatter "
        "and all-gather send {least}."
    ),
    "another": Mistake(
        "On {ranks} a weight is {apart} off plain PyTorch after step {step}, alike on all ranks.",
        "Where does each tensor begin in the row, and where does the padding lie?",
    ),
    **EVERYWHERE,
}


EXERCISE = Exercise(
    id="10-sharded-optimizer",
    title="Stage 1 by hand",
    difficulty=4,
    minutes=25,
    target="in worlds of 1, 2, 3 and 4 ranks the weights are those of plain PyTorch, and on 4 those of DeepSpeed's "
    "stage 1 to 1e-6, with a share of the states on each rank and no all-reduce",
    answer="shard_optimizer",
    check=_sharded,
    ranks=RANKS,
    seconds=60,
    mistakes=MISTAKES,
)
