"""Exercise 04-collectives: Which message runs when."""

import contextlib
import functools

from labsupport.exercises.answers import describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_04_stages.engines import small_config

MOMENTS = ("forward", "backward", "step")

STAGES = (0, 1, 2, 3)

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "reduce", "broadcast")
SMALLEST_MESSAGE = 100  # elements; below it is the norm of the gradients


@functools.cache
def _sent_by_engine(stage):
    """Return {moment: sorted collectives} of one step of a small model, as this engine calls them."""
    import deepspeed
    import torch

    zero = {"stage": stage, "reduce_bucket_size": 10_000, "allgather_bucket_size": 10_000}
    if stage == 3:
        zero = {
            "stage": 3,
            "reduce_bucket_size": 10_000,
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        }
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16), torch.nn.Linear(16, 8)]
    engine = deepspeed.initialize(model=torch.nn.Sequential(*layers), config=small_config(zero))[0]
    for _ in range(3):  # stage 3 records the order of the modules first
        sent = {moment: set() for moment in MOMENTS}
        with _noted(sent["forward"]):
            loss = engine(torch.randn(2, 16)).pow(2).mean()
        with _noted(sent["backward"]):
            engine.backward(loss)
        with _noted(sent["step"]):
            engine.step()
    engine.destroy()
    return {moment: sorted(names) for moment, names in sent.items()}


@contextlib.contextmanager
def _noted(names):
    """While it lasts, add the name of each collective that DeepSpeed calls with a message that counts."""
    import torch
    from deepspeed.comm import comm

    def noting(method):
        original = getattr(comm.cdb, method)

        def noted(*positional, **named):
            tensors = [each for each in [*positional, *named.values()] if isinstance(each, torch.Tensor)]
            if max((tensor.numel() for tensor in tensors), default=0) >= SMALLEST_MESSAGE:
                names.add(method.removesuffix("_into_tensor").removesuffix("_tensor"))
            return original(*positional, **named)

        return noted

    methods = [*COLLECTIVES, "reduce_scatter_tensor", "all_gather_into_tensor"]
    for method in methods:
        setattr(comm.cdb, method, noting(method))
    try:
        yield
    finally:
        for method in methods:
            delattr(comm.cdb, method)


def _collectives(answer):
    given = _as_table(answer)
    truth = {(stage, moment): set(_sent_by_engine(stage)[moment]) for stage in STAGES for moment in MOMENTS}
    if given == truth:
        return (
            "Noted on two ranks: "
            + "; ".join(
                f"stage {stage} " + ", ".join(f"{moment} {_listed(truth[stage, moment])}" for moment in MOMENTS)
                for stage in STAGES
            )
            + "."
        )
    _know_the_table(given, truth)
    at = next(at for at in truth if given[at] != truth[at])
    raise Mistaken("another", stage=at[0], moment=at[1], given=_listed(given[at]))


def _as_table(answer):
    if not isinstance(answer, dict) or set(answer) != set(STAGES):
        raise Unusable(f"The answer is {describe(answer)}: it has to be a dict with the keys 0, 1, 2 and 3.")
    table = {}
    for stage, row in answer.items():
        if not isinstance(row, dict) or set(row) != set(MOMENTS):
            raise Unusable(f"The row of stage {stage} is {describe(row)}: its keys have to be {', '.join(MOMENTS)}.")
        for moment, names in row.items():
            if names != {} and not isinstance(names, set | frozenset | list | tuple):  # {} is meant as the empty set
                raise Unusable(f"Stage {stage}, {moment}: {describe(names)} has to be a set of names.")
            unknown = [name for name in names if name not in COLLECTIVES]
            if unknown:
                raise Unusable(f"Stage {stage}, {moment}: {describe(unknown[0])} is none of {', '.join(COLLECTIVES)}.")
            table[stage, moment] = set(names)
    return table


def _know_the_table(given, truth):
    gathers, sums = {"all_gather"}, {"all_reduce", "reduce_scatter", "reduce"}
    for stage in STAGES:
        if given[stage, "step"] & sums or given[stage, "forward"] & sums:
            moment = "step" if given[stage, "step"] & sums else "forward"
            raise Mistaken("another moment", stage=stage, moment=moment)
    if given[0, "backward"] != truth[0, "backward"] or given[0, "step"] or given[0, "forward"]:
        raise Mistaken("stage 0")
    for stage in (1, 2):
        if given[stage, "forward"] & gathers or given[stage, "backward"] & gathers:
            raise Mistaken("gathers whole parameters", stage=stage)
        if not given[stage, "step"] & gathers:
            raise Mistaken("new weights stay", stage=stage)
        if given[stage, "backward"] == {"reduce_scatter"}:
            raise Mistaken("the paper", stage=stage)
    if "all_gather" in given[3, "step"]:
        raise Mistaken("gathers in the step")
    if "all_gather" not in given[3, "backward"]:
        raise Mistaken("no second gather")


def _listed(names):
    return ", ".join(sorted(names)) or "nothing"


MISTAKES = {
    "no second gather": Mistake(
        "At stage 3, with these settings, your backward pass gathers nothing. The gathered parameters were "
        "released after the forward pass, and the backward pass needs them again."
    ),
    "stage 0": Mistake(
        "At stage 0 nothing is partitioned. The gradients are summed for everybody in one kind of message, and "
        "every rank updates all of its own weights, so nothing has to be handed round afterwards."
    ),
    "gathers whole parameters": Mistake(
        "At stage {stage} every rank has all parameters while it computes. Only stage 3 has to gather them in the "
        "forward and in the backward pass."
    ),
    "new weights stay": Mistake(
        "At stage {stage} each rank updates only its piece of the weights. In the step that piece has to reach the "
        "other ranks, or they would compute on with old weights."
    ),
    "the paper": Mistake(
        "The paper reduce-scatters the gradients at stage {stage}. This DeepSpeed does something else by default, "
        "and the recorded step above shows it; why is the subject of the next section.",
        "Go to the backward pass of stage 1 in the picture and read what goes over the wire.",
    ),
    "gathers in the step": Mistake(
        "At stage 3 a rank keeps its own shard and nothing else. After the step nobody needs the whole parameter "
        "before the next forward pass asks for it."
    ),
    "another moment": Mistake(
        "Stage {stage}, {moment}: you sum gradients here. They exist from the backward pass on, and with one "
        "micro-batch a step DeepSpeed has summed them when `engine.backward` returns."
    ),
    "another": Mistake("Stage {stage}, {moment}: you say {given}, and the engine sent something else."),
}


EXERCISE = Exercise(
    id="04-collectives",
    title="Which message runs when",
    difficulty=3,
    minutes=10,
    target="the table is what this DeepSpeed sends in the forward pass, the backward pass and the step",
    answer="collectives_at",
    check=_collectives,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
