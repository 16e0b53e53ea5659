"""Why this machine cannot run a choice, in one sentence, before anything is started. No torch unless it must be asked.

    from labsupport.obstacle import obstacle
    print(obstacle(config, "7b", ranks=2) or "this machine can run it")

labsupport.live_training is what runs it.
"""

import shutil
import tempfile

import psutil

from labsupport.errors import ConfigError
from labsupport.machine import (
    default_accelerator,
    free_gpu_bytes,
    gpu_count,
    locking_obstacle,
    nvme_is_available,
    processor_computes_fp16,
)
from labsupport.memory import ALLOWANCE_BYTES, plan
from labsupport.model_states import shares_of
from labsupport.models import preset_named
from labsupport.settings import nvme_buffer_bytes
from labsupport.wording import gibibytes, ranks_in_words

MOST_CPU_RANKS = 4  # more would only wait for each other on a laptop's cores
RANK_BYTES = 2**29  # Python with torch and DeepSpeed and gloo's buffers, without a model


def obstacle(config, model, ranks, accelerator=None, *, sequence_length=128, activation_checkpointing=False):
    """Return "" where this machine can run that choice, else the sentence that says why not.

    Looked at are the number of ranks, the precision, libaio and the disk for NVMe, and the memory that `plan`
    predicts for all ranks together, against what is free now.
    """
    accelerator = accelerator or default_accelerator(ranks)
    try:
        planned = plan(
            model,
            config,
            world_size=ranks,
            sequence_length=sequence_length,
            activation_checkpointing=activation_checkpointing,
            accelerator=accelerator,
        )
    except ConfigError as error:
        return str(error)
    return (
        _too_many_ranks(ranks, accelerator)
        or _precision_refused(planned.settings.precision, accelerator)
        or _nvme_refused(planned, model)
        or too_large(planned, model, accelerator)
    )


def _too_many_ranks(ranks, accelerator):
    most = MOST_CPU_RANKS if accelerator == "cpu" else gpu_count()
    if ranks <= most:
        return ""
    place = "on its processor" if accelerator == "cpu" else "on its GPUs"
    return f"{ranks} ranks are more than the {most} that this machine should start {place}: choose fewer."


def _precision_refused(precision, accelerator):
    if precision == "fp16" and accelerator == "cpu" and not processor_computes_fp16():
        return "This machine's processor does not train in fp16: choose bf16 or fp32."
    return ""


def _nvme_refused(planned, model):
    on_nvme = sum(planned.moments["at rest"].get("NVMe", {}).values()) * planned.settings.world_size
    if "nvme" not in (planned.settings.offload_optimizer, planned.settings.offload_param):
        return ""
    if not nvme_is_available():
        return "NVMe offload needs libaio with its header: install the package libaio-dev, or choose cpu."
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if on_nvme > free:
        return f"The files would take {gibibytes(on_nvme)} in {folder}, and {gibibytes(free)} are free there."
    shares = shares_of(preset_named(model).tensor_sizes, planned.settings)
    return locking_obstacle(nvme_buffer_bytes(shares, planned.settings))


def too_large(planned, model, accelerator):
    """Return "" where a Plan's peak fits into what is free now, on the GPU and on the host, else the sentence."""
    ranks = planned.settings.world_size
    if accelerator == "cpu":
        needed = ranks * (planned.peak_bytes + RANK_BYTES)
        free, whose, on = psutil.virtual_memory().available, "this machine has", ranks_in_words(ranks)
    else:
        needed = planned.peak_bytes + ALLOWANCE_BYTES
        free, whose, on = free_gpu_bytes(), "the GPU has", "each GPU"
    if free is None or needed <= free:
        return "" if accelerator == "cpu" else _host_too_small(planned, model)
    return (
        f"{model} would take about {gibibytes(needed)} on {on} and {whose} {gibibytes(free)} free: choose a smaller "
        "model."
    )


def _host_too_small(planned, model):
    """Offloaded states lie in the memory of the host, for all the ranks that it has."""
    here = max(1, min(planned.settings.world_size, gpu_count()))
    needed, free = here * planned.host_bytes("peak"), psutil.virtual_memory().available
    if needed <= free:
        return ""
    return (
        f"{model} would offload about {gibibytes(needed)} into the host's memory, and {gibibytes(free)} are free "
        "there: offload less, or choose a smaller model."
    )
