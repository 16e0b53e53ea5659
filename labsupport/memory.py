"""The planner: how many bytes of model state each rank holds under each ZeRO stage. Needs no torch.

Formulas: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
SC 2020, arXiv 1910.02054, section 3.1 and 5.
"""

from labsupport.errors import ConfigError

PARAMETER_BYTES = 2  # a bf16 or fp16 parameter
GRADIENT_BYTES = 2
OPTIMIZER_BYTES = 12  # Adam: fp32 master weight 4, momentum 4, variance 4: the paper's K


def model_state_bytes(parameters, stage, world_size):
    """Return the bytes of parameters, gradients and optimizer states on one rank, mixed precision, Adam.

    parameters: how many the model has (the paper's Psi); world_size: data-parallel ranks (N_d).
    Stage 0: 16 Psi; stage 1: 4 Psi + 12 Psi / N; stage 2: 2 Psi + 14 Psi / N; stage 3: 16 Psi / N (paper,
    figure 1). Exact arithmetic on model states alone: no activations, buckets or fragmentation.
    Raises ConfigError for a stage outside 0 to 3, and for counts below one.
    """
    return sum(model_state_parts(parameters, stage, world_size).values())


def model_state_parts(parameters, stage, world_size):
    """Return the same bytes by role: {"parameters", "gradients", "optimizer states"}, the masters in the last."""
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        raise ConfigError(f"ZeRO stage is {stage!r}: choose 0, 1, 2 or 3.")
    for name, value in (("parameters", parameters), ("world_size", world_size)):
        if value < 1:
            raise ConfigError(f"{name} is {value!r}: give a number of at least 1.")
    whole = {"parameters": PARAMETER_BYTES, "gradients": GRADIENT_BYTES, "optimizer states": OPTIMIZER_BYTES}
    partitioned_from = {"optimizer states": 1, "gradients": 2, "parameters": 3}
    return {
        role: parameters * each / (world_size if stage >= partitioned_from[role] else 1) for role, each in whole.items()
    }


def communication_elements(parameters, stage, gradient_accumulation_steps=1):
    """Return the elements that one rank sends in one optimizer step, for many ranks (paper, section 7).

    Data parallel: an all-reduce is a reduce-scatter and an all-gather, 2 Psi. Stage 1 reduces once a step.
    Stage 2 reduces every micro-batch and gathers the parameters once: (G + 1) Psi. Stage 3 gathers for the
    forward and for the backward pass and reduces, every micro-batch: 3 G Psi.
    """
    steps = gradient_accumulation_steps
    return parameters * {0: 2, 1: 2, 2: steps + 1, 3: 3 * steps}[stage]
