"""Exercise 06-offload-config: answers that are known to be wrong, by their mistake, and right ones."""


def _function(body):
    """The source of a cell that defines the function with this body."""
    named = 'optimizer_offload=True, param_offload=False, offload_device="cpu", nvme_path=None'
    return f"def offload_fragment({named}):{body}"


GOOD = _function("""
    target = {"device": offload_device}
    zero = {}
    if offload_device == "nvme":
        target["nvme_path"] = nvme_path
    if optimizer_offload:
        zero["offload_optimizer"] = dict(target)
    if param_offload:
        zero["offload_param"] = dict(target)
    fragment = {"zero_optimization": zero}
    if offload_device == "nvme":
        fragment["aio"] = {"block_size": 262144, "queue_depth": 16}
    return fragment""")

WRONG = {
    "aio inside": (
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
    "top level": (
        _function("""
    fragment = {}
    if optimizer_offload:
        fragment["offload_optimizer"] = {"device": offload_device}
    if param_offload:
        fragment["offload_param"] = {"device": offload_device}
    return fragment"""),
    ),
    "not a block": (
        _function("""
    return {"zero_optimization": {"offload_optimizer": optimizer_offload, "offload_param": param_offload}}"""),
        _function("""
    return {"zero_optimization": {"offload_optimizer": offload_device}}"""),
    ),
    "path": (
        _function("""
    block = {"device": offload_device}
    zero = {}
    if optimizer_offload:
        zero["offload_optimizer"] = block
    if param_offload:
        zero["offload_param"] = block
    return {"zero_optimization": zero, "aio": {"block_size": 262144, "queue_depth": 16}}"""),
    ),
    "file access": (
        _function("""
    block = {"device": offload_device, "nvme_path": nvme_path}
    wanted = {"offload_optimizer": optimizer_offload, "offload_param": param_offload}
    return {"zero_optimization": {key: block for key, value in wanted.items() if value}}"""),
        """from labsupport import create_offload_config as offload_fragment""",
        GOOD.replace("262144", "1024**2 / 4"),
        GOOD.replace("262144", "'262144'"),
    ),
    "not asked for": (
        _function("""
    block = {"device": offload_device}
    return {"zero_optimization": {"offload_optimizer": block, "offload_param": block}}"""),
        _function("""
    zero = {"offload_optimizer": {"device": offload_device}}
    if param_offload:
        zero["offload_param"] = {"device": offload_device}
    return {"zero_optimization": zero}"""),
    ),
    "another device": (
        _function("""
    return {"zero_optimization": {"offload_optimizer": {"device": "cpu"}} if optimizer_offload else {}}"""),
        _function("""
    return {"zero_optimization": {"offload_optimizer": {"pin_memory": True}}}"""),
    ),
    "not a fragment": (
        _function("""
    zero = {"stage": 3, "offload_optimizer": {"device": offload_device}}
    return {"zero_optimization": zero}"""),
        _function("""
    zero = {"stage": 2, "offload_optimizer": {"device": offload_device}}
    return {"train_batch_size": 32, "zero_optimization": zero}"""),
        GOOD.replace("    return fragment", "    if param_offload:\n        zero['stage'] = 3\n    return fragment"),
    ),
    "more than offload": (
        GOOD.replace("    return fragment", '    fragment["bf16"] = {"enabled": True}\n    return fragment'),
        GOOD.replace("    return fragment", '    zero["overlap_comm"] = True\n    return fragment'),
        GOOD.replace("    return fragment", '    fragment["zero_force_ds_cpu_optimizer"] = False\n    return fragment'),
        GOOD.replace("    return fragment", '    fragment["gradient_accumulation_steps"] = 2\n    return fragment'),
    ),
    "a part": (
        GOOD.replace(
            "    return fragment",
            """    if optimizer_offload and param_offload:
        zero["offload_optimizer"]["ratio"] = 0.5
    return fragment""",
        ),
    ),
}

RIGHT = (
    """def offload_fragment(optimizer_offload=True, param_offload=False, offload_device="cpu", nvme_path=None):
    to_drive = offload_device == "nvme"
    block = {"device": offload_device, "nvme_path": nvme_path} if to_drive else {"device": offload_device}
    wanted = {"offload_optimizer": optimizer_offload, "offload_param": param_offload}
    fragment = {"zero_optimization": {key: dict(block) for key, value in wanted.items() if value}}
    return fragment | ({"aio": {"block_size": 2**18, "queue_depth": 16}} if to_drive else {})""",
    """from labsupport import create_offload_config


def offload_fragment(optimizer_offload=True, param_offload=False, offload_device="cpu", nvme_path=None):
    fragment = create_offload_config(optimizer_offload, param_offload, offload_device, nvme_path=nvme_path)
    if "aio" in fragment:
        fragment["aio"].update(block_size=262144, queue_depth=16)
    return fragment""",
    """def offload_fragment(optimizer_offload=True, param_offload=False, offload_device="cpu", nvme_path=None):
    def block(wanted):
        return {"device": offload_device if wanted else "none", "nvme_path": nvme_path, "pin_memory": False}

    return {
        "aio": {"block_size": 262144, "queue_depth": 16, "single_submit": True},
        "zero_optimization": {"offload_param": block(param_offload), "offload_optimizer": block(optimizer_offload)},
    }""",
)
