"""Exercise 11-mend: Experts that compute with the right weights."""

import contextlib
import functools

from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_11_your_model.engines import apart, small_config, whole_weights
from labsupport.exercises.meeting import Meeting

WIDTH, EXPERTS, STEPS = 16, 4, 2
# What each of the two ranks' rows are sent to: as many experts on both, and then not.
SAME_COUNT = ((0, 0, 1, 1), (2, 2, 3, 3))
OTHER_COUNT = ((1, 1, 1, 1), (0, 1, 2, 3))


@functools.cache
def classes():
    """Return (Experts, Model): a mixture written by hand, and a model with two of them."""
    import torch

    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

        def forward(self, rows, chosen):
            result = torch.zeros_like(rows)
            for number, expert in enumerate(self.experts):
                mine = chosen == number
                if mine.any():
                    result[mine] = expert(rows[mine])
            return result

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
            self.mixture, self.second_mixture = Experts(), Experts()

        def forward(self, rows, chosen):
            rows = self.mixture(self.first(rows), chosen)
            return self.last(self.second_mixture(rows, chosen))

    return Experts, Model


def new_model():
    import torch

    torch.manual_seed(0)
    return classes()[1]()


def rows_of(rank):
    import torch

    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(rank))


def _mend(answer):
    import deepspeed
    import torch

    meeting = Meeting()
    meeting.WAIT_SECONDS = 20
    model, rank = new_model(), meeting.rank
    meeting.call(answer, model)
    _judge_plain(model, rank)
    engine = deepspeed.initialize(model=model, config=small_config(3))[0]
    try:
        with torch.no_grad():
            gathers, result = _noted(lambda: engine(rows_of(rank), torch.tensor(SAME_COUNT[rank])))
        right = new_model()(rows_of(rank), torch.tensor(SAME_COUNT[rank]))
        off = max(meeting.facts(apart(result, right)))
        if off > 1e-5:
            raise Mistaken("mixed", off=f"{off:.2g}")
        of_mixture = 4 * EXPERTS * (WIDTH * WIDTH + WIDTH) // meeting.ranks
        if max(gathers) > of_mixture:
            raise Mistaken("the whole model", most=f"{max(gathers):,}", mixture=f"{of_mixture:,}")
        for _ in range(STEPS):
            engine.backward(engine(rows_of(rank), torch.tensor(OTHER_COUNT[rank])).pow(2).mean())
            engine.step()
        meeting.facts("all are back")
        trained, plain = whole_weights(engine), _trained_by_pytorch(meeting.ranks)
        off = max(meeting.facts(max(apart(trained[name], plain[name]) for name in plain)))
        if off > 1e-4:
            raise Mistaken("trains otherwise", off=f"{off:.2g}")
    finally:
        with contextlib.suppress(Exception):
            engine.destroy()
    return (
        f"After {STEPS} steps with unequal experts no weight is more than {off:.1g} from PyTorch's; a forward pass "
        f"gathers {sum(gathers):,} bytes in {len(gathers)} messages."
    )


def _judge_plain(model, rank):
    """Raise where the model has changed what it computes or trains, before there is an engine."""
    import torch

    if not all(p.requires_grad for p in model.parameters()):
        raise Mistaken("frozen")
    if len(list(model.parameters())) != len(list(new_model().parameters())):
        raise Unusable("The model has other parameters after your function: leave its weights as they are.")
    for routing in (SAME_COUNT, OTHER_COUNT):
        given, chosen = rows_of(rank), torch.tensor(routing[rank])
        off = apart(model(given, chosen), new_model()(given, chosen))
        if off > 1e-5:
            raise Mistaken("changed", off=f"{off:.2g}")


def _noted(function):
    """Return (bytes of each all-gather, what the function returns)."""
    from labsupport.measure.counted import count

    counted = count(function, memory=False)
    return [size for name, size in counted.messages if name == "all_gather"], counted.result


@functools.cache
def _trained_by_pytorch(ranks):
    """The weights after the same steps without DeepSpeed, on the rows of all ranks."""
    import torch

    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(STEPS):
        for rank in range(ranks):
            (model(rows_of(rank), torch.tensor(OTHER_COUNT[rank])).pow(2).mean() / ranks).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}


MISTAKES = {
    "mixed": Mistake(
        "With two experts in use on each rank, and not the same two, the rows are {off} off PyTorch's: the gathers of "
        "one rank still meet the gathers of the other for another expert.",
        "Which module decides what is called? That one has to gather, before it runs, all that it may call.",
    ),
    "the whole model": Mistake(
        "The rows are right, and one message carries {most} bytes of a rank's shares; those of a mixture are "
        "{mixture}. You have made a leaf of more than the mixture, so that the whole model is gathered at once.",
        "Which is the smallest module whose calls differ from rank to rank?",
    ),
    "changed": Mistake(
        "After your function the model computes something else: without DeepSpeed its rows are {off} off what they "
        "were. How the gathers are made has to change, and not the result."
    ),
    "frozen": Mistake("After your function not all weights require a gradient: the experts have to go on training."),
    "trains otherwise": Mistake(
        "The first pass is right. After two steps in which the ranks use unequal numbers of experts a weight is {off} "
        "off PyTorch's, trained on the rows of both ranks."
    ),
    "hangs": Mistake(
        "The ranks wait for each other, as they did before: they do not make the same gathers when they use unequal "
        "numbers of experts.",
        "Which module decides what is called? That one has to gather, before it runs, all that it may call.",
    ),
}


EXERCISE = Exercise(
    id="11-mend",
    title="Experts that compute with the right weights",
    difficulty=3,
    minutes=10,
    target="at stage 3, with other experts and other numbers of them on each of two ranks, all weights are PyTorch's",
    answer="mend",
    check=_mend,
    ranks=2,
    seconds=60,
    mistakes=MISTAKES,
)
