"""What readers get wrong in exercises_offload.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake


def _function(body):
    """The source of a cell that defines the function with this body."""
    named = 'optimizer_offload=True, param_offload=False, offload_device="cpu", nvme_path=None'
    return f"def offload_fragment({named}):{body}"


OFFLOAD_CONFIG = {
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
}

TO_HOST = {"device": "cpu"}

RUNS = {
    "stage 0, optimizer to cpu": {"stage": 0, "offload_optimizer": TO_HOST},
    "stage 1, optimizer to cpu": {"stage": 1, "offload_optimizer": TO_HOST},
    "stage 2, optimizer to nvme": {"stage": 2, "offload_optimizer": {"device": "nvme"}},
    "stage 2, parameters to cpu": {"stage": 2, "offload_param": TO_HOST},
    "stage 3, parameters to cpu": {"stage": 3, "offload_param": TO_HOST},
}


def _answer(places):
    """The source of a cell that says these five places, in the order of RUNS."""
    return f"where = {dict(zip(RUNS, places.split(), strict=True))!r}"


DOES_NOTHING = {
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
}

_PLAN = """workstation_config = {
    "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}, "zero_optimization": %s,
}"""

FITS = {
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
}
