"""The exercises of lab 06: write the fragment, choose what fits, and know what does nothing."""

import os
import tempfile
from functools import cache

from labsupport.judging import (
    Exercise,
    Mistake,
    Mistaken,
    Unusable,
    call,
    describe,
    first_line,
    parsed_by_deepspeed,
    require_dict,
)

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


def _function(body):
    """The source of a cell that defines the function with this body."""
    named = 'optimizer_offload=True, param_offload=False, offload_device="cpu", nvme_path=None'
    return f"def offload_fragment({named}):{body}"


OFFLOAD_CONFIG = Exercise(
    id="06-offload-config",
    title="The part of a config that offloads",
    difficulty=2,
    minutes=10,
    target="laid over whole configs of stages 2 and 3, the fragment offloads in DeepSpeed's eyes what was asked for, "
    "and changes nothing else",
    answer="offload_fragment",
    check=_offload_fragment,
    mistakes={
        "aio inside": Mistake(
            "The block aio stands inside zero_optimization, and DeepSpeed does not read it there. {error}",
            (
                _function("""
    block = {"device": offload_device}
    zero = {}
    if offload_device == "nvme":
        block["nvme_path"] = nvme_path
        zero["aio"] = {"block_size": 262144, "queue_depth": 16}
    if optimizer_offload:
        zero["offload_optimizer"] = block
    if param_offload:
        zero["offload_param"] = block
    return {"zero_optimization": zero}"""),
            ),
            "Compare with the second fragment that the section prints: in which braces does aio stand?",
        ),
        "top level": Mistake(
            "{block} stands at the top level. DeepSpeed ignores keys there that it does not know, so the run trains "
            "without offload and says nothing.",
            (
                _function("""
    fragment = {}
    if optimizer_offload:
        fragment["offload_optimizer"] = {"device": offload_device}
    if param_offload:
        fragment["offload_param"] = {"device": offload_device}
    return fragment"""),
            ),
        ),
        "not a block": Mistake(
            "The switch is no value of its own: DeepSpeed wants a block with a device in it. {error}",
            (
                _function("""
    return {"zero_optimization": {"offload_optimizer": optimizer_offload, "offload_param": param_offload}}"""),
                _function("""
    return {"zero_optimization": {"offload_optimizer": offload_device}}"""),
            ),
        ),
        "path": Mistake(
            "For {block} DeepSpeed reads the folder {path}, and the call named another one. The config is accepted, "
            "and DeepSpeed fails or writes elsewhere when it makes its files.",
            (
                _function("""
    block = {"device": offload_device}
    zero = {}
    if optimizer_offload:
        zero["offload_optimizer"] = block
    if param_offload:
        zero["offload_param"] = block
    return {"zero_optimization": zero, "aio": {"block_size": 262144, "queue_depth": 16}}"""),
            ),
        ),
        "file access": Mistake(
            "For a run with a drive DeepSpeed reads {key} {read} in its aio block, and {value} was asked for. "
            "Without the block at the top level it takes its own values.",
            (
                _function("""
    block = {"device": offload_device, "nvme_path": nvme_path}
    wanted = {"offload_optimizer": optimizer_offload, "offload_param": param_offload}
    return {"zero_optimization": {key: block for key, value in wanted.items() if value}}"""),
                """from labsupport import create_offload_config as offload_fragment""",
            ),
        ),
        "not asked for": Mistake(
            "Called with {said}, the fragment makes DeepSpeed offload with {block} to {read}: this block was switched "
            "off. Each switch has its own block, and a block that is there works.",
            (
                _function("""
    block = {"device": offload_device}
    return {"zero_optimization": {"offload_optimizer": block, "offload_param": block}}"""),
                _function("""
    zero = {"offload_optimizer": {"device": offload_device}}
    if param_offload:
        zero["offload_param"] = {"device": offload_device}
    return {"zero_optimization": zero}"""),
            ),
        ),
        "another device": Mistake(
            "Called with {said}, the fragment makes DeepSpeed read {block} as {read}, and it was to go to {device}.",
            (
                _function("""
    return {"zero_optimization": {"offload_optimizer": {"device": "cpu"}} if optimizer_offload else {}}"""),
                _function("""
    return {"zero_optimization": {"offload_optimizer": {"pin_memory": True}}}"""),
            ),
        ),
        "not a fragment": Mistake(
            "Laid over a whole config, this changes {key}. A fragment says what it adds, and leaves the stage and the "
            "rest to the config under it.",
            (
                _function("""
    zero = {"stage": 3, "offload_optimizer": {"device": offload_device}}
    return {"zero_optimization": zero}"""),
                _function("""
    zero = {"stage": 2, "offload_optimizer": {"device": offload_device}}
    return {"train_batch_size": 32, "zero_optimization": zero}"""),
            ),
        ),
    },
)

TO_HOST = {"device": "cpu"}
RUNS = {
    "stage 0, optimizer to cpu": {"stage": 0, "offload_optimizer": TO_HOST},
    "stage 1, optimizer to cpu": {"stage": 1, "offload_optimizer": TO_HOST},
    "stage 2, optimizer to nvme": {"stage": 2, "offload_optimizer": {"device": "nvme"}},
    "stage 2, parameters to cpu": {"stage": 2, "offload_param": TO_HOST},
    "stage 3, parameters to cpu": {"stage": 3, "offload_param": TO_HOST},
}
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


def _answer(places):
    """The source of a cell that says these five places, in the order of RUNS."""
    return f"where = {dict(zip(RUNS, places.split(), strict=True))!r}"


DOES_NOTHING = Exercise(
    id="06-does-nothing",
    title="Which of these runs offload at all?",
    difficulty=3,
    minutes=5,
    target="all five predictions agree with what real engines do with the five configs",
    answer="where",
    check=_does_nothing,
    mistakes={
        "stage 0, optimizer to cpu": Mistake(
            "At stage 0 you said {said}, and the engine did {found}: nothing is partitioned there, so an ordinary "
            "optimizer runs, without the code that could offload its states.",
            (_answer("host host host nothing host"), _answer("drive host host nothing host")),
        ),
        "stage 1, optimizer to cpu": Mistake(
            "At stage 1 you said {said}, and the states are on the {found}: stage 1 partitions the optimizer's "
            "states, and a partitioned optimizer is all that this offload needs.",
            (_answer("nothing nothing host nothing host"),),
        ),
        "stage 2, optimizer to nvme": Mistake(
            "At stage 2 with nvme you said {said}, and the states are on the {found}: there is no file in the folder "
            "after a step, because only stage 3 has the code for files.",
            (
                _answer("nothing host drive nothing host"),
                _answer("nothing host nothing nothing nothing"),
            ),
            "Look at the two lines that the section prints, and at the optimizer's class in the first.",
        ),
        "stage 2, parameters to cpu": Mistake(
            "For parameters at stage 2 you said {said}, and the engine did {found}: below stage 3 the parameters are "
            "whole on every rank, and DeepSpeed moves only shards of them.",
            (_answer("nothing host host host host"),),
        ),
        "stage 3, parameters to cpu": Mistake(
            "For parameters at stage 3 you said {said}, and their shards are on the {found}: the parameters may go "
            "although the optimizer stays.",
            (_answer("nothing host host nothing nothing"), _answer("nothing host host nothing drive")),
        ),
    },
)

# The machine of 06-fits, in bytes: the statement says the same in GB.
PARAMETERS, GPUS = 7e9, 4
CARD_BYTES, HOST_BYTES = 16e9 - 4e9, 160e9 - 28e9


def _fits(config):
    from labsupport.config import merge_configs, validate_config
    from labsupport.errors import ConfigError
    from labsupport.memory import plan
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
    on_card, on_host = planned.place_bytes("peak", "GPU"), planned.place_bytes("at rest", "pinned host") * GPUS
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


_PLAN = """workstation_config = {
    "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}, "zero_optimization": %s,
}"""

FITS = Exercise(
    id="06-fits",
    title="Seven billion parameters on four small cards",
    difficulty=3,
    minutes=10,
    target="the planner finds room for the run on every card and on the host, and nothing travels further than it must",
    answer="workstation_config",
    check=_fits,
    mistakes={
        "states on the card": Mistake(
            "At stage {stage} the planner counts {card} GB on each card, and 12 GB are free. Adam's 12 bytes a "
            "parameter are still there: four ranks are too few to partition them away.",
            (
                _PLAN % '{"stage": 3}',
                _PLAN % '{"stage": 2}',
                _PLAN % '{"stage": 3, "offload_param": {"device": "cpu"}}',
            ),
        ),
        "parameters whole": Mistake(
            "The optimizer is on the host, but at stage {stage} every card holds all parameters: 14 GB of weights "
            "alone, {card} GB in all, and 12 GB are free.",
            (
                _PLAN % '{"stage": 2, "offload_optimizer": {"device": "cpu"}}',
                _PLAN % '{"stage": 1, "offload_optimizer": {"device": "cpu"}}',
            ),
            "Which stage divides the parameters?",
        ),
        "host too small": Mistake(
            "The cards have room to spare, and the host has not: with the parameters there as well it holds {host} GB, "
            "and 132 GB are free. All four ranks share one host, so partitioning does not divide its part.",
            (_PLAN % '{"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}',),
            "Do the parameters have to leave the cards?",
        ),
        "drive": Mistake(
            "A drive is for what the host cannot hold. Here the host has room for what the cards have no room for, "
            "and a drive reads and writes 12 bytes a parameter in every step.",
            (
                _PLAN % '{"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/mnt/drive"}}',
                _PLAN
                % """{"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/mnt/drive"},
        "offload_param": {"device": "cpu"}}""",
            ),
        ),
        "does nothing": Mistake(
            "DeepSpeed starts with this config and does something else. {error}",
            (
                _PLAN % '{"stage": 2, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}',
                _PLAN % '{"stage": 2, "offload_optimizer": {"device": "nvme", "nvme_path": "/mnt/drive"}}',
                _PLAN % '{"stage": 0, "offload_optimizer": {"device": "cpu"}}',
            ),
        ),
        "another training": Mistake(
            "This is another run than the one to be placed: it computes in {precision}, and its optimizer is "
            "{optimizer}. The run is in bf16 with AdamW, whose masters and states are fp32; change only where things "
            "are.",
            (
                """workstation_config = {
    "train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
}""",
                """workstation_config = {
    "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True},
    "optimizer": {"type": "SGD", "params": {"lr": 1e-4}}, "zero_optimization": {"stage": 3},
}""",
            ),
        ),
    },
)

EXERCISES = (OFFLOAD_CONFIG, DOES_NOTHING, FITS)
