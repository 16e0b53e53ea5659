"""Exercise 04-edit: Set a partitioned weight for good."""

from labsupport.exercises.answers import call
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_04_stages.engines import small_config
from labsupport.exercises.meeting import Meeting

# Layer, parameter, value, and whether the model is in bf16, where the master has another format than the weight.
EDITS = ((1, "weight", 7.0, False), (1, "weight", -0.25, True), (0, "bias", 3.0, True))


def _edit(answer):
    import torch

    if not callable(answer):
        call(answer)
    meeting = Meeting()
    for layer, name, value, bf16 in EDITS:
        engine = _partitioned_engine(bf16)
        try:
            _train_once(engine)
            parameter = getattr(engine.module[layer], name)
            others = [each for each in engine.module.parameters() if each is not parameter]
            before, was = [_whole(each) for each in others], _whole(parameter)
            _set_weight(meeting, answer, parameter, value)
            stays_whole = parameter.numel() > 0
            now, unchanged = _whole(parameter), all(map(torch.equal, before, map(_whole, others)))
            _train_once(engine)
            after = _whole(parameter)
            drifted = max((one - _whole(each)).abs().max().item() for one, each in zip(before, others, strict=True))
        finally:
            engine.destroy()
        seen = [_share_of(now, value), _share_of(after, value), unchanged and drifted < 0.01]
        got = None if torch.equal(now, was) else str(now.flatten()[0].item())
        seen += [got, stays_whole, parameter.requires_grad]
        _judge_edit(meeting.facts(seen), value)
    return (
        f"A matrix and a bias of a bf16 model and a matrix of an fp32 model had the value on both ranks at once, in "
        f"{len(EDITS)} of {len(EDITS)} edits, and kept it through the next step; nothing else moved."
    )


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
        if any(seen[4] for seen in by_rank):
            raise Mistaken("stays whole")
        if not all(seen[5] for seen in by_rank):
            raise Mistaken("frozen")
        return
    if now == after == 0:
        got = by_rank[0][3]
        raise Mistaken("lost" if got is None else "another value", value=value, got=got)
    if 0 < now < 1 or 0 < after < 1:
        raise Mistaken("one shard", value=value)
    raise Mistaken("lost in the step" if now else "not yet", value=value)


def _partitioned_engine(bf16):
    import deepspeed
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 6))
    zero = {"stage": 3, "reduce_bucket_size": 10_000, "stage3_param_persistence_threshold": 0}
    more = {"bf16": {"enabled": True}} if bf16 else {}
    return deepspeed.initialize(model=model, config=small_config(zero) | more)[0]


def _train_once(engine):
    import torch

    engine.backward(engine(torch.ones(2, 6, dtype=engine.module[0].weight.dtype)).float().pow(2).mean())
    engine.step()


def _whole(parameter):
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().float().clone()


def _share_of(tensor, value):
    return ((tensor - value).abs() < 0.01).float().mean().item()  # a step moves a weight by 1e-4


MISTAKES = {
    "lost": Mistake(
        "The weight is as it was. Outside a gather a partitioned parameter is empty, and the end of a gather "
        "throws away what was written, unless `modifier_rank` names the rank whose version counts."
    ),
    "another value": Mistake("After your function a gather shows {got} in the weight, and {value} was asked for."),
    "stays whole": Mistake(
        "The value is right, and after your function the whole parameter stays on each rank: what `all_gather` fetches "
        "is held until somebody partitions it again.",
        "`deepspeed.zero.GatheredParameters` lets go of it at its end.",
    ),
    "frozen": Mistake(
        "The value is there, and `requires_grad` is False after your function: from now on no step trains the "
        "parameter. For good means for the next steps to begin from, not for ever."
    ),
    "lost in the step": Mistake(
        "Right after your function every rank sees {value}, and after the next optimizer step it is gone. The step "
        "starts from the fp32 master and rounds it into the shard, and the master still held the old numbers."
    ),
    "not yet": Mistake(
        "After the next optimizer step every rank sees {value}, but the forward pass before that still computes "
        "with the old weight. The fp32 master is changed; the shard in the model's precision follows in the step.",
        "There are two copies of every weight. Which one did you not change?",
    ),
    "one shard": Mistake(
        "Only a part of the weight becomes {value}. Usually it is the shard of one rank: each rank holds another part "
        "of the master and of the weight, so every rank has to do its share."
    ),
    "empty value": Mistake(
        "You hand over a tensor of the wrong size. The whole value is asked for, and `parameter.shape` says (0,) "
        "outside a gather: the true shape is `ds_shape`."
    ),
    "hangs": Mistake(
        "Your function hangs. A gather is collective: the rank that enters it waits for all others, and they do "
        "not come.",
        "Which line may stand under `if rank == 0:`, and which may not?",
    ),
}


EXERCISE = Exercise(
    id="04-edit",
    title="Set a partitioned weight for good",
    difficulty=4,
    minutes=12,
    target="the whole weight has the value on every rank at once, and after the next optimizer step",
    answer="set_weight",
    check=_edit,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
