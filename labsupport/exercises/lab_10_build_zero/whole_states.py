"""Exercise 10-whole-states: A universal checkpoint by hand."""

import functools
import math
import tempfile
from pathlib import Path

from labsupport.exercises.answers import call, describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_10_build_zero.by_deepspeed import OPTIMIZERS, first_weights, gradients, small_config
from labsupport.exercises.lab_10_build_zero.by_deepspeed import with_gradients as model_of
from labsupport.exercises.lab_10_build_zero.worlds import RANKS
from labsupport.exercises.meeting import Meeting

SHAPES = ((7, 5), (5,), (11, 3), (2,), (9,))
IN_SECOND_GROUP = (1, 3)  # the short ones, as models keep their biases out of weight decay
KINDS = ("fp32", "exp_avg", "exp_avg_sq")
MANY = 12  # ranks of a checkpoint that is cut anew: more than one digit


def _whole_states(answer):
    if not callable(answer):
        call(answer)
    meeting, cases = Meeting(), _saved()
    meeting.WAIT_SECONDS = 20
    for ranks, stage, folder, right in cases:
        if meeting.rank == 0:
            told = _judged(answer, folder, right, ranks, stage)
        told = meeting.facts(told if meeting.rank == 0 else None)[0]
        if told:
            _raise(*told)
    sizes = {ranks: sum(path.stat().st_size for path in Path(folder).glob("*_optim_states.pt"))
             for ranks, _, folder, _ in cases}  # fmt: skip
    files = ", ".join(f"{ranks} files of {size:,} bytes together" for ranks, size in sizes.items())
    return f"Measured: {files}; {3 * len(SHAPES)} whole tensors, each equal to the engine's own in every bit."


def _raise(kind, name, values):
    if kind == "unusable":
        raise Unusable(name)
    raise Mistaken(name, **values)


def _judged(answer, folder, right, ranks, stage):
    """Return None for a right answer, else what is wrong with it, to be raised on every rank."""
    values = {"ranks": ranks, "stage": stage}
    try:
        given = call(answer, folder)
    except Unusable as problem:
        return "unusable", f"From {ranks} ranks' files, at stage {stage}: {problem}", values
    if not isinstance(given, dict):
        return "unusable", f"Your function returned {describe(given)}: it has to be a dict by names.", {}
    if set(given) != set(right):
        missing, more = sorted(set(right) - set(given)), sorted(map(str, set(given) - set(right)))
        values |= {"missing": ", ".join(missing) or "none", "more": ", ".join(more) or "none"}
        return "mistake", "other names", values
    return _wrong_tensor(given, right, values)


def _wrong_tensor(given, right, values):
    import torch

    for name, states in right.items():
        if not isinstance(given[name], dict) or not set(KINDS) <= set(given[name]):
            return "unusable", f"The entry of {name} has to be a dict with {', '.join(KINDS)}.", {}
        for kind in KINDS:
            tensor, values = given[name][kind], values | {"name": name, "kind": kind}
            if not isinstance(tensor, torch.Tensor):
                return "unusable", f"{kind} of {name} is {describe(tensor)}: it has to be a tensor.", {}
            if tensor.shape != states[kind].shape:
                values |= {"has": tuple(tensor.shape), "right": tuple(states[kind].shape)}
                return "mistake", "another shape", values
            if torch.equal(tensor.float(), states[kind]):
                continue
            values["off"] = int((tensor.float() != states[kind]).sum())
            values["elements"] = states[kind].numel()
            rounded = kind == "fp32" and torch.equal(tensor.float(), states[kind].bfloat16().float())
            if rounded:
                return "mistake", "rounded", values
            return "mistake", "order of files" if values["ranks"] == MANY else "another value", values
    return None


@functools.cache
def _saved():
    """Return [(ranks, stage, folder, {name: whole states})] of real checkpoints, and of one that is cut anew."""
    import torch.distributed as dist

    folder = [tempfile.mkdtemp(prefix="whole-states-")]
    dist.broadcast_object_list(folder)
    cases = [_save(2, 2, folder[0], _Pairs()), _save(4, 1, folder[0]), _save(4, 2, folder[0])]
    again = f"{folder[0]}/cut-anew"
    if dist.get_rank() == 0:
        _cut_anew(Path(cases[-1][2]), Path(again))
    dist.barrier()
    return [*cases, (MANY, 2, again, cases[-1][3])]


def _save(ranks, stage, folder, mpu=None):
    """Train an engine, save it, and return the case with what the engine itself says is whole."""
    import deepspeed
    import torch.distributed as dist
    from deepspeed.utils import groups

    before, rank = groups.mpu, dist.get_rank()
    model = model_of(first_weights(SHAPES, 9))
    weights = list(model.parameters())
    short = [weights[number] for number in IN_SECOND_GROUP]
    long = [weight for number, weight in enumerate(weights) if number not in IN_SECOND_GROUP]
    parameters = [{"params": long}, {"params": short, "weight_decay": 0.0}]
    config = small_config(stage, OPTIMIZERS["adam"], bf16={"enabled": True})
    engine = deepspeed.initialize(model=model, model_parameters=parameters, config=config, mpu=mpu)[0]
    for step in range(3):
        engine.backward(engine(*gradients(SHAPES, 9, step, rank % ranks)))
        engine.step()
    target = f"{folder}/stage{stage}-{ranks}-ranks-{rank // ranks}"
    engine.save_checkpoint(target, tag="step3")
    right = _held_by_ranks(engine, mpu.pair if mpu else None, ranks)
    engine.destroy()
    groups.mpu = before
    return ranks, stage, f"{target}/step3", right


def _held_by_ranks(engine, group, ranks):
    """Return {name: whole states} from what the ranks of an engine hold in memory, without any file."""
    import torch
    import torch.distributed as dist

    names, whole = {id(p): name for name, p in engine.module.named_parameters()}, {}
    optimizer = engine.optimizer
    for shard, parameters in zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True):
        states = engine.basic_optimizer.state[shard]
        for kind, mine in (("fp32", shard), *((kind, states[kind]) for kind in KINDS[1:])):
            parts = [torch.empty_like(mine) for _ in range(ranks)]
            dist.all_gather(parts, mine.detach().contiguous(), group=group)
            sizes = [p.numel() for p in parameters]
            row = torch.cat(parts)[: sum(sizes)].split(sizes)
            for p, piece in zip(parameters, row, strict=True):
                whole.setdefault(names[id(p)], {})[kind] = piece.view(p.shape).clone()
    return whole


class _Pairs:
    """What DeepSpeed asks for the ranks: ranks 0 and 1 are a world of their own, and ranks 2 and 3."""

    def __init__(self):
        import torch.distributed as dist

        pairs = [dist.new_group([first, first + 1]) for first in range(0, RANKS, 2)]
        alone = [dist.new_group([rank]) for rank in range(RANKS)]
        self.pair, self.alone, self.rank = pairs[dist.get_rank() // 2], alone[dist.get_rank()], dist.get_rank() % 2

    def __getattr__(self, name):
        if not name.startswith("get_"):
            raise AttributeError(name)
        data = "data_parallel" in name
        if name.endswith("_group"):
            return lambda: self.pair if data else self.alone
        if name.endswith("_world_size"):
            return lambda: 2 if data else 1
        if name.endswith("_rank"):
            return lambda: self.rank if data else 0
        raise AttributeError(name)


def _cut_anew(source, target):
    """Write a checkpoint's files as 12 ranks would have: the same rows in 12 shares, padded as DeepSpeed pads them."""
    import torch

    target.mkdir()
    for path in source.glob("*model_states.pt"):
        (target / path.name).write_bytes(path.read_bytes())
    names = sorted(source.glob("*_optim_states.pt"))
    files = [torch.load(path, weights_only=False) for path in names]
    old = [file["optimizer_state_dict"] for file in files]
    sizes = [sum(math.prod(shape) for shape in group.values()) for group in _shapes_of(source)]
    for rank in range(MANY):
        new = dict(old[0])
        masters = [torch.cat([each["single_partition_of_fp32_groups"][group] for each in old]) for group in (0, 1)]
        new["single_partition_of_fp32_groups"] = [
            _share(row, size, rank, padded=False) for row, size in zip(masters, sizes, strict=True)
        ]
        base = {"param_groups": old[0]["base_optimizer_state"]["param_groups"], "state": {}}
        for group, size in enumerate(sizes):
            states = [each["base_optimizer_state"]["state"][group] for each in old]
            base["state"][group] = {
                key: _share(torch.cat([s[key] for s in states]), size, rank) if value.dim() else value
                for key, value in states[0].items()
            }
        new |= {"base_optimizer_state": base, "partition_count": [MANY, MANY]}
        name = names[0].name.replace("rank_0_mp", f"rank_{rank}_mp")
        torch.save(files[0] | {"optimizer_state_dict": new}, target / name)


def _shapes_of(folder):
    import torch

    (path,) = folder.glob("*model_states.pt")
    return torch.load(path, weights_only=False)["param_shapes"]


def _share(row, size, rank, padded=True):
    import torch

    share = -(-size // (2 * MANY)) * 2
    whole = torch.nn.functional.pad(row[:size], (0, share * MANY - size)) if padded else row[:size]
    return whole[rank * share : (rank + 1) * share].clone()


MISTAKES = {
    "other names": Mistake(
        "From {ranks} ranks' files, at stage {stage}: of the parameters these are missing: {missing}; and these are no "
        "parameters: {more}. The optimizer has two groups, and `param_shapes` has a dict for each."
    ),
    "another shape": Mistake(
        "From {ranks} ranks' files, at stage {stage}: {kind} of {name} has the shape {has}; it has to be {right}. "
        "The row "
        "is flat, and may have padding at its end."
    ),
    "rounded": Mistake(
        "From {ranks} ranks' files, at stage {stage}: fp32 of {name} is the master rounded to bf16. Usually it was "
        "read "
        "from the model's file, whose weights are the rounded copies.",
        "Which file has the masters?",
    ),
    "order of files": Mistake(
        "From {ranks} ranks' files the first difference is in {kind} of {name}: {off} of {elements} elements. From 2 "
        "and "
        "from 4 ranks' files everything is right. Usually the files are sorted by their names: as text, rank_10 comes "
        "before rank_2."
    ),
    "another value": Mistake(
        "From {ranks} ranks' files, at stage {stage}, {off} of {elements} elements of {kind} of {name} are not the "
        "engine's. Usually a rank's stretch is missing, or the pieces are joined in another order.",
        "Each group has a row of its own, and each rank a stretch of each row.",
    ),
    "hangs": Mistake("Your function does not come back. It reads files, and needs no other rank."),
}


EXERCISE = Exercise(
    id="10-whole-states",
    title="A universal checkpoint by hand",
    difficulty=4,
    minutes=20,
    target="weights and both moments from 2, 4 and 12 ranks' files, at stages 1 and 2, equal the engine's own in every "
    "bit",
    answer="whole_states",
    check=_whole_states,
    ranks=RANKS,
    seconds=60,
    mistakes=MISTAKES,
)
