"""The exercises of lab 06: write the fragment, choose what fits, and know what does nothing."""

import os
import tempfile
from functools import cache

from labsupport import mistakes_offload as mistakes
from labsupport.exercises.answers import call, describe, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.mistakes_offload import RUNS
from labsupport.wording import first_line

BASE = {
    "train_batch_size": 4,
    "gradient_clipping": 0.0,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.001}},
    "zero_optimization": {"reduce_bucket_size": 10_000},
}
BLOCKS = ("offload_optimizer", "offload_param")
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
        read = _device(found)
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


def _device(block):
    """Where DeepSpeed's own offload block sends its states: "none", "cpu" or "nvme"."""
    return "none" if block is None else str(getattr(block.device, "value", block.device))


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


OFFLOAD_CONFIG = Exercise(
    id="06-offload-config",
    title="The part of a config that offloads",
    difficulty=2,
    minutes=10,
    target="laid over whole configs of stages 2 and 3, the fragment offloads in DeepSpeed's eyes what was asked for, "
    "and changes nothing else",
    answer="offload_fragment",
    check=_offload_fragment,
    mistakes=mistakes.OFFLOAD_CONFIG,
)

PLACES = ("host", "drive", "nothing")


def _does_nothing(answer):
    require_dict(answer, "The answer")
    for name in RUNS:
        if answer.get(name) not in PLACES:
            raise Unusable(f"For {name!r} the answer has {describe(answer.get(name))}: write one of {PLACES}.")
    unknown = sorted(set(answer) - set(RUNS))
    if unknown:
        raise Unusable(f"The answer has {unknown[0]!r}, which is none of the five runs.")
    for name in RUNS:
        found = _place_of(name)
        if answer[name] != found:
            raise Mistaken(name, said=answer[name], found=found)


@cache
def _place_of(name):
    """Where a real run of this config puts what it was told to offload, after one step."""
    import deepspeed
    import torch

    with tempfile.TemporaryDirectory() as folder:
        zero = {key: dict(value) if isinstance(value, dict) else value for key, value in RUNS[name].items()}
        for block in BLOCKS:
            if zero.get(block, {}).get("device") == "nvme":
                zero[block]["nvme_path"] = folder
        # PyTorch's Adam at every stage, so that nothing is compiled; where its states lie is the same.
        adam = {"type": "AdamW", "params": {"lr": 0.001, "torch_adam": True}}
        config = {"train_batch_size": 2, "optimizer": adam, "zero_optimization": {"reduce_bucket_size": 1000, **zero}}
        try:
            engine, *_ = deepspeed.initialize(model=torch.nn.Linear(8, 8), config=config)
            engine.backward(engine(torch.ones(2, 8)).sum())
            engine.step()
        except Exception as error:
            raise Unusable(f"The run {name!r} does not work here ({first_line(error)}).", error) from error
        files = [file for _, _, names in os.walk(folder) for file in names]
        own = (getattr(engine.optimizer, each, False) for each in ("cpu_offload", *BLOCKS))
        place = "drive" if files else "host" if any(own) else "nothing"
        engine.destroy()
    return place


DOES_NOTHING = Exercise(
    id="06-does-nothing",
    title="Which of these runs offload at all?",
    difficulty=3,
    minutes=5,
    target="all five predictions agree with what real engines do with the five configs",
    answer="where",
    check=_does_nothing,
    mistakes=mistakes.DOES_NOTHING,
)

# The machine of 06-fits, in bytes: the statement says the same in GB.
PARAMETERS, GPUS = 7e9, 4
CARD_BYTES, HOST_BYTES = 16e9 - 4e9, 160e9 - 28e9


def _fits(config):
    from labsupport.config import merge_configs, validate_config
    from labsupport.errors import ConfigError
    from labsupport.memory.planner import plan
    from labsupport.settings import read_settings

    require_dict(config, "The config")
    parsed = parsed_by_deepspeed(config, GPUS)
    blocks = {block: getattr(parsed.zero_config, block) for block in BLOCKS}
    if any(block is not None and getattr(block, "ratio", 1.0) != 1.0 for block in blocks.values()):
        raise Unusable("The planner counts whole states: leave ratio out of offload_optimizer.")
    effective = {key: {"device": _device(block)} for key, block in blocks.items() if block is not None}
    try:
        config = validate_config(merge_configs(config, {"zero_optimization": effective}), GPUS)
        settings = read_settings(config, GPUS)
    except ConfigError as error:
        raise Mistaken("does nothing", error=error) from error
    if "optimizer" not in config or (settings.precision, settings.master_bytes, settings.states) != ("bf16", 4, 2):
        optimizer = settings.optimizer if "optimizer" in config else "none"
        raise Mistaken("another training", precision=settings.precision, optimizer=optimizer)
    planned = plan(PARAMETERS, config, world_size=GPUS)
    on_card, on_host = planned.place_bytes("peak", "GPU"), planned.host_bytes("at rest") * GPUS
    _judge_places(settings, on_card, on_host)


def _judge_places(settings, on_card, on_host):
    need = {"card": f"{on_card / 1e9:.0f}", "host": f"{on_host / 1e9:.0f}"}
    if "nvme" in (settings.offload_optimizer, settings.offload_param):
        raise Mistaken("drive")
    if on_card > CARD_BYTES and settings.offload_optimizer == "none":
        raise Mistaken("states on the card", stage=settings.stage, **need)
    if on_card > CARD_BYTES:
        raise Mistaken("parameters whole", stage=settings.stage, **need)
    if on_host > HOST_BYTES:
        raise Mistaken("host too small", **need)


FITS = Exercise(
    id="06-fits",
    title="Seven billion parameters on four small cards",
    difficulty=3,
    minutes=10,
    target="the planner finds room for the run on every card and on the host, and nothing travels further than it must",
    answer="workstation_config",
    check=_fits,
    mistakes=mistakes.FITS,
)

EXERCISES = (OFFLOAD_CONFIG, DOES_NOTHING, FITS)
