"""The exercises of lab 04: what each stage sends, and how a partitioned parameter is changed."""

import contextlib
import functools

from labsupport import mistakes_stages as mistakes
from labsupport.exercises.answers import call, describe
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.exercises.meeting import Meeting
from labsupport.exercises_memory import BYTES, FEWEST_RANKS
from labsupport.mistakes_stages import MOMENTS

STAGES = (0, 1, 2, 3)

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "reduce", "broadcast")
SMALLEST_MESSAGE = 100  # elements; below it are the checks for overflow and for the order of the modules


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
    engine = deepspeed.initialize(model=torch.nn.Sequential(*layers), config=_config(zero))[0]
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


def _config(zero):
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-4, "torch_adam": True}},
        "zero_optimization": zero,
    }


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
        return
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


COLLECTIVES_AT = Exercise(
    id="04-collectives",
    title="Which message runs when",
    difficulty=3,
    minutes=10,
    target="the table is what this DeepSpeed sends in the forward pass, the backward pass and the step",
    answer="collectives_at",
    check=_collectives,
    ranks=2,
    seconds=30,
    mistakes=mistakes.COLLECTIVES_AT,
)


def _edit(answer):
    import torch

    if not callable(answer):
        call(answer)
    meeting = Meeting()
    for value in (7.0, -0.25):
        engine = _partitioned_engine()
        try:
            _train_once(engine)
            weight, bias = engine.module[1].weight, engine.module[1].bias
            before = _whole(bias)
            _set_weight(meeting, answer, weight, value)
            now, others = _whole(weight), _whole(bias)
            _train_once(engine)
            after = _whole(weight)
        finally:
            engine.destroy()
        seen = [_share_of(now, value), _share_of(after, value), bool(torch.equal(before, others))]
        _judge_edit(meeting.facts(seen), value)


def _set_weight(meeting, answer, weight, value):
    try:
        meeting.call(answer, weight, value)
    except Unusable as problem:
        if isinstance(problem.error, AssertionError) and "Number of elements do not match" in str(problem.error):
            raise Mistaken("empty value") from problem
        raise


def _judge_edit(by_rank, value):
    now, after = (min(seen[moment] for seen in by_rank) for moment in (0, 1))
    if not all(seen[2] for seen in by_rank):
        raise Unusable("Another parameter of the model changed as well: change the one that was given.")
    if now == after == 1:
        return
    if now == after == 0:
        raise Mistaken("lost", value=value)
    if 0 < now < 1 or 0 < after < 1:
        raise Mistaken("one shard", value=value)
    raise Mistaken("lost in the step" if now else "not yet", value=value)


def _partitioned_engine():
    import deepspeed
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 6))
    zero = {"stage": 3, "reduce_bucket_size": 10_000, "stage3_param_persistence_threshold": 0}
    return deepspeed.initialize(model=model, config=_config(zero))[0]


def _train_once(engine):
    import torch

    engine.backward(engine(torch.ones(2, 6)).pow(2).mean())
    engine.step()


def _whole(parameter):
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def _share_of(tensor, value):
    return ((tensor - value).abs() < 0.01).float().mean().item()  # a step moves a weight by 1e-4


EDIT = Exercise(
    id="04-edit",
    title="Set a partitioned weight for good",
    difficulty=4,
    minutes=12,
    target="the whole weight has the value on every rank at once, and after the next optimizer step",
    answer="set_weight",
    check=_edit,
    ranks=2,
    seconds=30,
    mistakes=mistakes.EDIT,
)

EXERCISES = (BYTES, EDIT, COLLECTIVES_AT, FEWEST_RANKS)
