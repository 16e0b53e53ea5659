"""Whether a plan has room: on a card that is named, and on this machine, before anything is started. No torch.

from labsupport.memory.room import obstacle
print(obstacle(Run("7b", config, world_size=2)) or "this machine can run it")
"""

import shutil
import tempfile

import psutil

from labsupport.errors import ConfigError
from labsupport.machine.cards import card
from labsupport.machine.probes import (
    default_accelerator,
    free_gpu_bytes,
    gpu_count,
    locking_obstacle,
    nvme_is_available,
    processor_computes_fp16,
)
from labsupport.memory.planner import plan, plan_of
from labsupport.models import shape_named
from labsupport.wording import gibibytes, ranks_in_words

# A CUDA context, cuBLAS's and NCCL's own buffers: outside the allocator, so outside every plan. An allowance,
# not a prediction.
ALLOWANCE_BYTES = 2**30
MOST_GPUS = 65_536
MOST_CPU_RANKS = 4  # more would only wait for each other on a laptop's cores
RANK_BYTES = 2**29  # Python with torch and DeepSpeed and gloo's buffers, without a model


def fits(planned, card_name):
    """Say whether a Plan's peak and 1 GiB for CUDA's and NCCL's own use fit into that card's memory.

    Raises ConfigError, with the nearest name, for an unknown card.
    """
    return planned.peak_bytes + ALLOWANCE_BYTES <= card(card_name).memory_bytes


def largest_model(card_name, model=None, **arguments):
    """Return the Plan of the largest model that fits on every such card, or None where none does.

    model: a preset or Shape, which is given as many layers as fit; without it, a bare number of parameters,
    model states and buffers alone. arguments: those of `plan`.
    """

    def candidate(size):
        if model is None:
            return size
        shape = shape_named(model) if isinstance(model, str) else model
        return shape._replace(layers=size)

    size = last_that_holds(
        lambda size: fits(plan(candidate(size), **arguments), card_name), 10_000 if model else 10**14
    )
    return plan(candidate(size), **arguments) if size else None


def smallest_world_size(card_name, model, config=None, **arguments):
    """Return the Plan with the fewest ranks that fits on such cards, or None where 65,536 do not suffice.

    The micro-batch stays as it is: give `config` train_micro_batch_size_per_gpu and no train_batch_size.
    """

    def too_small(world_size):
        return not fits(plan(model, config, world_size=world_size, **arguments), card_name)

    if too_small(MOST_GPUS):
        return None
    return plan(model, config, world_size=last_that_holds(too_small, MOST_GPUS) + 1, **arguments)


def host_bytes_of_node(planned, ranks):
    """Return what `ranks` ranks on one node keep in its memory when a step peaks: what is offloaded, and libraries.

    A rank's libraries are RANK_BYTES, an allowance and no prediction.
    """
    return ranks * (planned.host_bytes("peak") + RANK_BYTES)


def loading_bytes_of_node(planned, ranks):
    """Return what `ranks` ranks on one node need while each of them builds or loads the whole model by itself."""
    return ranks * (planned.parameters * planned.settings.parameter_bytes + RANK_BYTES)


def last_that_holds(holds, most):
    """Return the largest whole number from 0 to `most` for which `holds`, which is monotone: true, then false."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def obstacle(run, accelerator=None):
    """Return "" where this machine can train a labsupport.runs.Run, else the sentence that says why not.

    accelerator: "cuda" or "cpu", by default the GPUs where there are enough. Looked at are the number of ranks, the
    precision, libaio and the disk for NVMe, and the memory that the planner predicts for all ranks together, against
    what is free now.
    """
    accelerator = accelerator or default_accelerator(run.world_size)
    try:
        planned = plan_of(run, accelerator)
    except ConfigError as error:
        return str(error)
    return (
        _too_many_ranks(run.world_size, accelerator)
        or _precision_refused(planned.settings.precision, accelerator)
        or _nvme_refused(planned)
        or too_large(planned, run.model_in_words, accelerator)
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


def _nvme_refused(planned):
    on_nvme = sum(planned.moments["at rest"].get("NVMe", {}).values()) * planned.settings.world_size
    if "nvme" not in (planned.settings.offload_optimizer, planned.settings.offload_param):
        return ""
    if not nvme_is_available():
        return "NVMe offload needs libaio with its header: install the package libaio-dev, or choose cpu."
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if on_nvme > free:
        return f"The files would take {gibibytes(on_nvme)} in {folder}, and {gibibytes(free)} are free there."
    return locking_obstacle(planned.nvme_buffer_bytes)


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
