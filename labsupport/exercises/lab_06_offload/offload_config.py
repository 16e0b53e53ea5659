"""Exercise 06-offload-config: The part of a config that offloads."""

from labsupport.doctor.known import known
from labsupport.exercises.answers import call, first_difference, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_06_offload.parsed import BLOCKS, device_of

BASE = {
    "train_batch_size": 8,
    "gradient_clipping": 0.0,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.001}},
    "zero_optimization": {"reduce_bucket_size": 10_000},
}
# What the function is called with, and the stage that its fragment is laid over.
CALLS = (
    (2, {}),
    (3, {"optimizer_offload": True, "param_offload": False, "offload_device": "cpu"}),
    (3, {"optimizer_offload": True, "param_offload": True, "offload_device": "cpu"}),
    (3, {"optimizer_offload": False, "param_offload": True, "offload_device": "cpu"}),
    (3, {"optimizer_offload": False, "param_offload": False, "offload_device": "cpu"}),
    (2, {"optimizer_offload": False}),
    (3, {"optimizer_offload": True, "param_offload": False, "offload_device": "nvme", "nvme_path": "/mnt/drive/a"}),
    (3, {"optimizer_offload": True, "param_offload": True, "offload_device": "nvme", "nvme_path": "/mnt/drive/b"}),
    (3, {"optimizer_offload": False, "param_offload": True, "offload_device": "nvme", "nvme_path": "/mnt/drive/c"}),
)
FILE_ACCESS = {"block_size": 262144, "queue_depth": 16}
OWN = (*(f"zero_config.{block}" for block in BLOCKS), "aio_config")  # what a fragment may change of the config in force


def _offload_fragment(answer):
    judge_fragments(answer, FILE_ACCESS)
    return (
        f"Laid over configs of the stages 2 and 3, all {len(CALLS)} fragments make DeepSpeed read the devices and "
        "folders that were asked for, and nothing else is another in what is in force."
    )


def judge_fragments(function, file_access):
    """Raise unless the function's fragments do what its arguments say; file_access: {key: value} of aio for a drive."""
    for stage, arguments in CALLS:
        fragment = require_dict(call(function, **arguments), "The fragment")
        for ranks in (1, 2, 4):
            _judge_fragment(fragment, stage, arguments, ranks, file_access)


def _judge_fragment(fragment, stage, arguments, ranks, file_access):
    from labsupport.config import merge_configs

    base = merge_configs(BASE, {"zero_optimization": {"stage": stage}})
    named = _named_by_both(base, fragment)
    if named:
        raise Mistaken("not a fragment", key=named)
    stray = sorted(set(fragment) - set(known()["top_level"]))
    if stray:
        raise Mistaken("top level", key=stray[0])
    try:
        parsed = parsed_by_deepspeed(merge_configs(base, fragment), ranks)
    except Unusable as refused:
        zero = fragment.get("zero_optimization")
        if isinstance(zero, dict) and "aio" in zero:
            raise Mistaken("aio inside", error=refused) from refused
        if isinstance(zero, dict) and any(isinstance(zero.get(block), bool | str) for block in BLOCKS):
            raise Mistaken("not a block", error=refused) from refused
        raise
    _judge_effect(parsed, arguments, file_access)
    found = first_difference(parsed, parsed_by_deepspeed(base, ranks), ignored=OWN)
    if found:
        key, value, other = found
        raise Mistaken("more than offload", key=key, value=value, other=other)


def _judge_effect(parsed, arguments, file_access):
    device = arguments.get("offload_device", "cpu")
    switches = arguments.get("optimizer_offload", True), arguments.get("param_offload", False)
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
    for block, is_wanted in zip(BLOCKS, switches, strict=True):
        found = getattr(parsed.zero_config, block)
        read = device_of(found)
        if not is_wanted and read != "none":
            raise Mistaken("not asked for", said=said, block=block, read=read)
        if is_wanted and read != device:
            raise Mistaken("another device", said=said, block=block, read=read, device=device)
        if is_wanted and device == "nvme" and str(found.nvme_path) != arguments["nvme_path"]:
            raise Mistaken("path", block=block, path=found.nvme_path)
        if is_wanted and getattr(found, "ratio", 1.0) != 1.0:
            raise Mistaken("a part", said=said, block=block, ratio=found.ratio)
    if device == "nvme":
        for key, value in file_access.items():
            if parsed.aio_config[key] != value or type(parsed.aio_config[key]) is not int:
                raise Mistaken("file access", key=key, read=parsed.aio_config[key], value=value)


def _named_by_both(base, fragment, path=""):
    """The first key with a value in both, or "": a fragment has to leave it to the config that it is laid over."""
    for key in [key for key in fragment if key in base]:
        if not (isinstance(base[key], dict) and isinstance(fragment[key], dict)):
            return path + key
        inner = _named_by_both(base[key], fragment[key], f"{path}{key}.")
        if inner:
            return inner
    return ""


MISTAKES = {
    "aio inside": Mistake(
        "The block aio stands inside zero_optimization, and DeepSpeed does not read it there. {error}",
        "Compare with the second fragment that the section prints: in which braces does aio stand?",
    ),
    "top level": Mistake(
        "{key} stands at the top level. DeepSpeed ignores keys there that it does not know, and says nothing."
    ),
    "not a block": Mistake("The switch is no value of its own: DeepSpeed wants a block with a device in it. {error}"),
    "path": Mistake(
        "For {block} DeepSpeed reads the folder {path}, and the call named another one. The config is accepted, "
        "and DeepSpeed fails or writes elsewhere when it makes its files."
    ),
    "file access": Mistake(
        "For a run with a drive DeepSpeed reads {key} {read!r} in its aio block, and the whole number {value} was "
        "asked for. Without the block at the top level it takes its own values."
    ),
    "not asked for": Mistake(
        "Called with {said}, the fragment makes DeepSpeed offload with {block} to {read}: this block was switched "
        "off. Each switch has its own block, and a block that is there works."
    ),
    "another device": Mistake(
        "Called with {said}, the fragment makes DeepSpeed read {block} as {read}, and it was to go to {device}."
    ),
    "not a fragment": Mistake(
        "The fragment has a value for {key}, which the config under it has too. A fragment says what it adds, and "
        "leaves the stage and the rest to that config."
    ),
    "more than offload": Mistake(
        "Laid over a whole config, the fragment also changes {key}: DeepSpeed reads {value}, and without it {other}."
    ),
    "a part": Mistake(
        "Called with {said}, the fragment makes DeepSpeed read a ratio of {ratio} for {block}: it would offload that "
        "part of the states, and leave the rest where it is."
    ),
}


EXERCISE = Exercise(
    id="06-offload-config",
    title="The part of a config that offloads",
    difficulty=2,
    minutes=10,
    target="laid over whole configs of stages 2 and 3, the fragment offloads in DeepSpeed's eyes what was asked for, "
    "and changes nothing else",
    answer="offload_fragment",
    check=_offload_fragment,
    mistakes=MISTAKES,
)
