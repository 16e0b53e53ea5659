"""Exercise 06-offload-config: The part of a config that offloads."""

from labsupport.exercises.answers import call, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_06_offload.parsed import BLOCKS, device_of

BASE = {
    "train_batch_size": 4,
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
    (3, {"optimizer_offload": True, "param_offload": False, "offload_device": "nvme", "nvme_path": "/mnt/drive/a"}),
    (3, {"optimizer_offload": True, "param_offload": True, "offload_device": "nvme", "nvme_path": "/mnt/drive/b"}),
)
FILE_ACCESS = {"block_size": 262144, "queue_depth": 16}


def _offload_fragment(answer):
    for stage, arguments in CALLS:
        fragment = call(answer, **arguments)
        require_dict(fragment, "The fragment")
        _judge_fragment(fragment, stage, arguments)


def _judge_fragment(fragment, stage, arguments):
    from labsupport.config import merge_configs

    base = merge_configs(BASE, {"zero_optimization": {"stage": stage}})
    merged = merge_configs(base, fragment)
    changed = _changed(base, merged)
    if changed:
        raise Mistaken("not a fragment", key=changed)
    stray = [block for block in BLOCKS if block in fragment]
    if stray:
        raise Mistaken("top level", block=stray[0])
    try:
        parsed = parsed_by_deepspeed(merged)
    except Unusable as refused:
        zero = merged["zero_optimization"]
        if "aio" in zero:
            raise Mistaken("aio inside", error=refused) from refused
        if any(isinstance(zero.get(block), bool | str) for block in BLOCKS):
            raise Mistaken("not a block", error=refused) from refused
        raise
    _judge_effect(parsed, arguments)


def _judge_effect(parsed, arguments):
    device = arguments.get("offload_device", "cpu")
    wanted = dict(
        zip(BLOCKS, (arguments.get("optimizer_offload", True), arguments.get("param_offload", False)), strict=True)
    )
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
    for block, is_wanted in wanted.items():
        found = getattr(parsed.zero_config, block)
        read = device_of(found)
        if not is_wanted and read != "none":
            raise Mistaken("not asked for", said=said, block=block, read=read)
        if is_wanted and read != device:
            raise Mistaken("another device", said=said, block=block, read=read, device=device)
        if is_wanted and device == "nvme" and str(found.nvme_path) != arguments["nvme_path"]:
            raise Mistaken("path", block=block, path=found.nvme_path)
    if device == "nvme":
        for key, value in FILE_ACCESS.items():
            if parsed.aio_config[key] != value:
                raise Mistaken("file access", key=key, read=parsed.aio_config[key], value=value)


def _changed(base, merged, path=""):
    """The first key of `base` that `merged` has another value for, or ""."""
    for key, value in base.items():
        if isinstance(value, dict) and isinstance(merged[key], dict):
            inner = _changed(value, merged[key], f"{path}{key}.")
            if inner:
                return inner
        elif merged[key] != value:
            return path + key
    return ""


MISTAKES = {
    "aio inside": Mistake(
        "The block aio stands inside zero_optimization, and DeepSpeed does not read it there. {error}",
        "Compare with the second fragment that the section prints: in which braces does aio stand?",
    ),
    "top level": Mistake(
        "{block} stands at the top level. DeepSpeed ignores keys there that it does not know, so the run trains "
        "without offload and says nothing."
    ),
    "not a block": Mistake("The switch is no value of its own: DeepSpeed wants a block with a device in it. {error}"),
    "path": Mistake(
        "For {block} DeepSpeed reads the folder {path}, and the call named another one. The config is accepted, "
        "and DeepSpeed fails or writes elsewhere when it makes its files."
    ),
    "file access": Mistake(
        "For a run with a drive DeepSpeed reads {key} {read} in its aio block, and {value} was asked for. "
        "Without the block at the top level it takes its own values."
    ),
    "not asked for": Mistake(
        "Called with {said}, the fragment makes DeepSpeed offload with {block} to {read}: this block was switched "
        "off. Each switch has its own block, and a block that is there works."
    ),
    "another device": Mistake(
        "Called with {said}, the fragment makes DeepSpeed read {block} as {read}, and it was to go to {device}."
    ),
    "not a fragment": Mistake(
        "Laid over a whole config, this changes {key}. A fragment says what it adds, and leaves the stage and the "
        "rest to the config under it."
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
