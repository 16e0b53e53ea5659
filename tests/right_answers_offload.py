"""Right answers to the exercises of lab 06, each written differently from the lab's own solution."""

RIGHT = {
    "06-offload-config": (
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
    ),
    "06-fits": (
        """from labsupport import create_deepspeed_config

sizes = dict(train_batch_size=4, world_size=4)
workstation_config = create_deepspeed_config(stage=3, precision="bf16", offload_optimizer="cpu", **sizes)""",
        """workstation_config = {
    "train_batch_size": 8, "bf16": {"enabled": True}, "optimizer": {"type": "Adam", "params": {"lr": 3e-4}},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": False}},
}""",
        """adam = {"type": "AdamW", "params": {"lr": 1e-4}}
workstation_config = dict(train_micro_batch_size_per_gpu=1, optimizer=adam)
workstation_config["bf16"] = {"enabled": True}
zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "none"}}
workstation_config["zero_optimization"] = zero""",
    ),
    "06-does-nothing": (
        """where = {
    "stage 3, parameters to cpu": "host", "stage 2, parameters to cpu": "nothing", "stage 2, optimizer to nvme": "host",
    "stage 1, optimizer to cpu": "host", "stage 0, optimizer to cpu": "nothing",
}""",
        """names = ("stage 1, optimizer to cpu", "stage 2, optimizer to nvme", "stage 3, parameters to cpu")
where = dict.fromkeys(names, "host") | dict.fromkeys(
    ("stage 0, optimizer to cpu", "stage 2, parameters to cpu"), "nothing")""",
        """where = {}
for stage, what, device in (
    (0, "optimizer", "cpu"), (1, "optimizer", "cpu"), (2, "optimizer", "nvme"), (2, "parameters", "cpu"),
    (3, "parameters", "cpu"),
):
    least = 1 if what == "optimizer" else 3
    where[f"stage {stage}, {what} to {device}"] = "host" if stage >= least else "nothing\"""",
    ),
}
