"""The modelled seconds that one GPU computes: matrix products, attention, the traffic beside them, and Adam. No torch.

    from labsupport.step_time.compute import compute_seconds
    compute_seconds(GPT["7.5B"], 8192, cluster("H100", "NDR"))

Operations as in flops.py (Kaplan et al. 2020, arXiv 2001.08361; Narayanan et al. 2021, arXiv 2104.04473). A product of
matrices grows with the square of the hidden size and what lies between two products with the hidden size alone, at the
rate of the GPU's memory: so narrow models reach less of the peak (Williams, Waterman and Patterson 2009, the roofline).
"""

from labsupport.step_time.collectives import ELEMENT_BYTES

STATE_BYTES = 12  # Adam's fp32 master weight, momentum and variance
ADAM_BYTES = 2 * STATE_BYTES + 2 * ELEMENT_BYTES  # states read and written, gradient read, parameter written
# Of a block's matrices that a checkpoint computes again: PyTorch stops once it has what the backward pass needs
# (torch.utils.checkpoint, early_stop), so the last matrix, 4 of a GPT block's 12 h^2 parameters, is not.
RECOMPUTED_SHARE = 2 / 3
# FlashAttention's backward pass computes the scores again: 5 products to the forward pass's 2 (Dao 2023, arXiv
# 2307.08691, section 4). So a repeated forward pass of attention adds 2 / 7 and not a third.
ATTENTION_PASSES = {False: 3.0, True: 3.0 * 9 / 7}
# The logits of a token, read and written by a loss in fp32 that is not fused: cast (2 and 4 bytes), log-softmax forward
# (4 and 4), its gradient (4, then 4 + 4 and 4), and the cast back (4 and 2).
LOGIT_BYTES = 36


def compute_seconds(model, tokens, cluster, sequence_length=2048, recompute=True):
    """Return the seconds of one GPU's forward and backward passes over `tokens` tokens.

    model: anything with `parameters` (or `active_parameters`), `layers`, `hidden_size` and `vocabulary`.
    """
    forward = 2 * getattr(model, "active_parameters", model.parameters)
    attention = 2 * sequence_length * model.hidden_size * model.layers  # half of flops.py's count: the mask
    passes = 3 + (RECOMPUTED_SHARE if recompute else 0)
    seconds = passes * forward / (cluster.flops_per_second * cluster.matrix_share)
    seconds += ATTENTION_PASSES[bool(recompute)] * attention / (cluster.flops_per_second * cluster.attention_share)
    moved = passes / 3 * cluster.hidden_bytes * model.hidden_size * model.layers + LOGIT_BYTES * model.vocabulary
    return tokens * (seconds + moved / cluster.memory_bytes_per_second)


def accumulation_seconds(parameters, stage, world_size, cluster, gradient_accumulation_steps=1, sum_bytes=2):
    """Return the seconds that a step's micro-batches take to add up gradients, whole or, from stage 2, a rank's part.

    sum_bytes: of the sum. A gradient is read, the sum read and written; in 16 bits the first one is the sum itself.
    """
    part = parameters / (world_size if stage >= 2 else 1)
    times = gradient_accumulation_steps - (sum_bytes == ELEMENT_BYTES)
    return times * part * (ELEMENT_BYTES + 2 * sum_bytes) / cluster.memory_bytes_per_second


def optimizer_seconds(parameters, stage, world_size, cluster):
    """Return the seconds of Adam on one GPU: bound by its memory, 28 bytes a parameter, of its part from stage 1."""
    return parameters / (world_size if stage else 1) * ADAM_BYTES / cluster.memory_bytes_per_second
