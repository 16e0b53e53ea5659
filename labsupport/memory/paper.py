"""What the ZeRO paper says a rank holds and sends: exact arithmetic, the naive version of the planner. No torch.

    python -c "from labsupport.memory import model_state_bytes; print(model_state_bytes(7.5e9, 3, 64) / 1e9)"

Paper: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020,
arXiv 1910.02054.
"""

from labsupport.arguments import require_number, require_stage

PARAMETER_BYTES = 2  # a bf16 or fp16 parameter
GRADIENT_BYTES = 2
OPTIMIZER_BYTES = 12  # Adam: fp32 master weight 4, momentum 4, variance 4: the paper's K


def model_state_bytes(parameters, stage, world_size):
    """Return the bytes of parameters, gradients and optimizer states on one rank, mixed precision, Adam.

    parameters: how many the model has (the paper's Psi); world_size: data-parallel ranks (N_d).
    Stage 0: 16 Psi; stage 1: 4 Psi + 12 Psi / N; stage 2: 2 Psi + 14 Psi / N; stage 3: 16 Psi / N (paper,
    figure 1). Exact arithmetic on model states alone: no activations, buckets or fragmentation.
    Raises ConfigError for a stage outside 0 to 3, and for counts that are not finite or below one.
    """
    return sum(model_state_parts(parameters, stage, world_size).values())


def model_state_parts(parameters, stage, world_size):
    """Return the same bytes by role: {"parameters", "gradients", "optimizer states"}, the masters in the last."""
    require_stage(stage)
    require_number("parameters", parameters, at_least=1)
    require_number("world_size", world_size, at_least=1)
    whole = {"parameters": PARAMETER_BYTES, "gradients": GRADIENT_BYTES, "optimizer states": OPTIMIZER_BYTES}
    partitioned_from = {"optimizer states": 1, "gradients": 2, "parameters": 3}
    return {
        role: parameters * each / (world_size if stage >= partitioned_from[role] else 1) for role, each in whole.items()
    }


def paper_elements(parameters, stage, accumulation_steps=1):
    """Return the elements that one rank sends in one optimizer step, for many ranks (paper, section 7).

    Data parallelism: an all-reduce is a reduce-scatter and an all-gather, 2 Psi. Stage 1 reduces once a step.
    Stage 2 reduces every micro-batch and gathers the parameters once: (G + 1) Psi. Stage 3 gathers for the
    forward and for the backward pass and reduces, every micro-batch: 3 G Psi. The paper has G = 1. Raises
    ConfigError for a stage outside 0 to 3.
    """
    require_stage(stage)
    return parameters * {0: 2, 1: 2, 2: accumulation_steps + 1, 3: 3 * accumulation_steps}[stage]
