"""The modelled time of one optimizer step: compute, collectives, offload. Nothing here is measured. No torch.

    python -c "from labsupport.step_time import *; print(step_time(GPT['7.5B'], 3, cluster('H100', 'NDR'), 64, 8192))"

A step is between two bounds: everything hidden behind the slowest part, and nothing hidden at all. What is expected
lies between them. Where published rows say that the model cannot be trusted, StepTime.outside says why. What the terms
are and where they come from stands in compute.py, nccl.py, collectives.py and offload.py, the constants in machines.py.
"""

from typing import NamedTuple

from labsupport.arguments import require_number
from labsupport.step_time import nccl
from labsupport.step_time.collectives import ELEMENT_BYTES, communication_seconds, traffic
from labsupport.step_time.compute import accumulation_seconds, compute_seconds, optimizer_seconds
from labsupport.step_time.offload import offload_seconds, require_offload

TRUSTED_MESSAGES = 0.5  # of the compute: beyond it some published steps are missed by half and more (book/scaling.md)

MOST_GPUS = 512


class StepTime(NamedTuple):
    """The modelled parts of one optimizer step on one GPU, in seconds, and what they come to together."""

    compute_seconds: float
    optimizer_seconds: float
    communication_seconds: float
    offload_seconds: float
    exposed_share: float = 1.0  # what the shorter of compute and communication adds to the longer
    untested: str | None = None  # why no published row says anything of such a step

    @property
    def exposed_seconds(self):
        """The upper bound: nothing runs at the same time as anything else."""
        return self.compute_seconds + self.optimizer_seconds + self.communication_seconds + self.offload_seconds

    @property
    def overlapped_seconds(self):
        """The lower bound: everything is hidden behind the slowest of compute, communication and offload."""
        return max(self.compute_seconds + self.optimizer_seconds, self.communication_seconds, self.offload_seconds)

    @property
    def expected_seconds(self):
        """The model's one answer: messages are hidden as far as they were in the rows that the model is fitted on."""
        shorter, longer = sorted((self.compute_seconds, self.communication_seconds))
        return longer + self.exposed_share * shorter + self.optimizer_seconds + self.offload_seconds

    @property
    def outside(self):
        """One sentence that says why the model is not to be trusted here; None where published rows say that it is."""
        if self.untested:
            return f"Outside what was tested: {self.untested}."
        messages = self.communication_seconds / self.compute_seconds
        if messages > TRUSTED_MESSAGES:
            return (
                f"Outside what was tested well: the messages take {messages:.0%} of the compute's time, and beyond "
                f"{TRUSTED_MESSAGES:.0%} the model missed some published steps by more than a quarter."
            )
        return None


def step_time(
    model, stage, cluster, world_size, micro_batch_tokens, gradient_accumulation_steps=1, *, sequence_length=2048,
    recompute=True, deepspeed_default=True, reduce_bytes=ELEMENT_BYTES, sum_bytes=ELEMENT_BYTES, offload=None,
    offload_param=False, sent=None,
):  # fmt: skip
    """Return the modelled StepTime of one optimizer step.

    model: a Transformer or a labsupport.shapes.Shape. micro_batch_tokens: tokens of one micro-batch on one GPU.
    reduce_bytes: of an element in which gradients are sent (communication_data_type); sum_bytes: in which they are
    added up (grad_accum_dtype). offload: None, "cpu" or "nvme" for the optimizer's states; offload_param: the
    parameters too, stage 3 only. sent: a list of Traffic, for a program that sends something else than DeepSpeed.
    Raises ConfigError for sizes below one, and for an offload that DeepSpeed does not combine with the stage.
    """
    for name, value in {
        "world_size": world_size, "micro_batch_tokens": micro_batch_tokens, "parameters": model.parameters,
        "gradient_accumulation_steps": gradient_accumulation_steps, "sequence_length": sequence_length,
    }.items():  # fmt: skip
        require_number(name, value, at_least=1)
    deepspeed_sends = sent is None
    if deepspeed_sends:
        sent = traffic(model, stage, gradient_accumulation_steps, deepspeed_default, reduce_bytes=reduce_bytes)
    require_offload(stage, offload, offload_param)
    parameters, steps = model.parameters, gradient_accumulation_steps
    computed = compute_seconds(model, micro_batch_tokens * steps, cluster, sequence_length, recompute)
    return StepTime(
        computed + accumulation_seconds(parameters, stage, world_size, cluster, steps, sum_bytes),
        0.0 if offload else optimizer_seconds(parameters, stage, world_size, cluster),
        communication_seconds(sent, lambda name, size: nccl.choice(name, size, world_size, cluster).seconds),
        offload_seconds(parameters, cluster, world_size, steps, offload, offload_param, stage) if offload else 0.0,
        cluster.exposed_share,
        _untested(model, stage if deepspeed_sends else None, cluster, world_size, offload, offload_param),
    )


def _untested(model, deepspeed_stage, cluster, world_size, offload, offload_param):
    """Why no published row says that such a step is met, or None."""
    several_nodes = nccl.nodes_of(world_size, cluster) > 1
    reasons = {
        "no published step on this card was found to hold the model against": not cluster.tested,
        "no published step of a model of experts was found": getattr(model, "experts", 0),
        "no published step with parameters on the host or with NVMe was found": offload_param or offload == "nvme",
        f"the published steps that the model meets have at most {MOST_GPUS} GPUs": world_size > MOST_GPUS,
        "published steps of DeepSpeed's stage 3 over several nodes were found of 2021 only, and took more "
        "than three times as long": deepspeed_stage == 3 and several_nodes,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
