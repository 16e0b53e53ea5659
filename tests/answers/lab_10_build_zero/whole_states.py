"""Exercise 10-whole-states: answers that are known to be wrong, by their mistake, and right ones."""


def _answer(order="lambda path: int(re.search(r'rank_(\\d+)_mp', path.name)[1])", files="files",
            groups="enumerate(model['param_shapes'])", fp32="flat['fp32'][start : start + size].view(shape)",
            moment="flat[kind][start : start + size].view(shape)"):  # fmt: skip
    return f"""
import re
from pathlib import Path

def whole_states(folder):
    files = sorted(Path(folder).glob("*_optim_states.pt"), key={order})
    model = torch.load(next(Path(folder).glob("*model_states.pt")), weights_only=False)
    shards = [torch.load(path, weights_only=False)["optimizer_state_dict"] for path in {files}]
    whole = {{}}
    for group, shapes in {groups}:
        flat = {{"fp32": torch.cat([each["single_partition_of_fp32_groups"][group] for each in shards])}}
        for kind in ("exp_avg", "exp_avg_sq"):
            flat[kind] = torch.cat([each["base_optimizer_state"]["state"][group][kind] for each in shards])
        start = 0
        for name, shape in shapes.items():
            size = shape.numel()
            whole[name] = {{kind: {moment} for kind in flat}}
            whole[name]["fp32"] = {fp32}
            start += size
    return whole"""


WRONG = {
    "other names": (
        _answer(groups="enumerate(model['param_shapes'][:1])"),
        _answer().replace("return whole", "return {f'module.{name}': each for name, each in whole.items()}"),
    ),
    "another shape": (_answer(fp32="flat['fp32'][start : start + size]"),),
    "rounded": (_answer(fp32="model['module'][name].float()"),),
    "order of files": (_answer(order="None"),),
    "another value": (
        _answer(order="lambda path: -int(re.search(r'rank_(\\d+)_mp', path.name)[1])"),
        _answer(moment="flat['exp_avg'][start : start + size].view(shape)"),
        _answer().replace("shapes.items()", "reversed(shapes.items())"),
    ),
}

RIGHT = (
    _answer(),
    # By the places that the files themselves name.
    """
import glob, os

def whole_states(folder):
    count, whole = len(glob.glob(os.path.join(folder, "*_optim_states.pt"))), {}
    shapes = torch.load(glob.glob(f"{folder}/mp_rank_00_model_states.pt")[0], weights_only=False)["param_shapes"]
    for rank in range(count):
        (path,) = glob.glob(f"{folder}/*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        states = torch.load(path, weights_only=False)["optimizer_state_dict"]
        for group in range(len(shapes)):
            rows = dict(states["base_optimizer_state"]["state"][group])
            rows["fp32"] = states["single_partition_of_fp32_groups"][group]
            for kind in ("fp32", "exp_avg", "exp_avg_sq"):
                whole.setdefault((group, kind), []).append(rows[kind])
    found = {}
    for group, named in enumerate(shapes):
        sizes = [shape.numel() for shape in named.values()]
        for kind in ("fp32", "exp_avg", "exp_avg_sq"):
            pieces = torch.cat(whole[group, kind])[: sum(sizes)].split(sizes)
            for (name, shape), piece in zip(named.items(), pieces):
                found.setdefault(name, {})[kind] = piece.reshape(shape)
    return found""",
    """
from pathlib import Path

def whole_states(folder):
    found = {}
    paths = {int(p.name.split("rank_")[1].split("_")[0]): p for p in Path(folder).iterdir() if "optim_states" in p.name}
    shards = [torch.load(paths[rank], weights_only=False)["optimizer_state_dict"] for rank in range(len(paths))]
    model = torch.load(Path(folder, "mp_rank_00_model_states.pt"), weights_only=False)
    def row(kind, group):
        if kind == "fp32":
            return [n for each in shards for n in each["single_partition_of_fp32_groups"][group].tolist()]
        return [n for each in shards for n in each["base_optimizer_state"]["state"][group][kind].tolist()]
    for group, shapes in enumerate(model["param_shapes"]):
        for kind in ("fp32", "exp_avg", "exp_avg_sq"):
            numbers = iter(row(kind, group))
            for name, shape in shapes.items():
                values = torch.tensor([next(numbers) for _ in range(shape.numel())])
                found.setdefault(name, {})[kind] = values.view(shape)
    return found""",
)
