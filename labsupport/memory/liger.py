"""The activations of a Llama whose norms, MLP and loss are Liger's kernels: no logits, fewer copies. No torch.

Read in Liger-Kernel at ead96b6 (2026-08-21), ops/rms_norm.py, swiglu.py and fused_linear_cross_entropy.py, as
apply_liger_kernel_to_llama puts them in. The kernels need a GPU: nothing here was measured by this project;
published.py holds it against runs of others.
"""

from labsupport.memory.activations import (
    RNG_STATE_BYTES,
    Activations,
    layers_per_token,
    llama_layer,
    rotary_bytes,
    trained_in_layers,
)

FP32 = 4


def liger_activation_bytes(
    shape,
    micro_batch_size,
    sequence_length,
    element_bytes,
    checkpointing=False,
    reduce_bucket_size=0,
    keeps_linear_inputs=False,
):
    """Return the Activations of one micro-batch on one rank, in bytes, with PyTorch's fused attention.

    A norm keeps its input, its output (for the linear maps) and a number a token in fp32; the MLP keeps gate, up and
    their product, and writes its gradients over gate and up. The loss makes the gradients of its input and, where it is
    trained, of the output layer's weight in the forward pass, and keeps them; the logits exist for one chunk of tokens.
    keeps_linear_inputs: as for activation_bytes.
    """
    tokens, e = micro_batch_size * sequence_length, element_bytes
    h, f, hidden = shape.hidden_size, shape.mlp_size, tokens * shape.hidden_size * e
    counted = layers_per_token(shape, sequence_length, e, "sdpa", checkpointing, keeps_linear_inputs, _layer)
    per_layer = [tokens * each for each in counted if each] or [0]
    # The gradients of the product and of the residual, and of a weight.
    working = tokens * e * (f + h) + h * f * e * (shape.adapter is None)
    kept_layers = sum(hidden + RNG_STATE_BYTES if checkpointing else each for each in per_layer)
    first = 2 * 8 * tokens + rotary_bytes(shape, sequence_length, e)
    output = {"embed_tokens.weight" if shape.is_tied else "lm_head.weight"} & shape.trained_outside
    output_layer = shape.vocabulary * h * bool(output)
    last_norm = tokens * _norm(h, e, True, True) + hidden
    kept = first + kept_layers + last_norm + hidden + output_layer * e
    one_layer = per_layer[-1] if checkpointing else 0
    behind = min(1.0, reduce_bucket_size / max(1, trained_in_layers(shape)))
    return Activations(
        kept=kept,
        # A chunk's logits, and its part of the weight's gradient in both precisions.
        forward=kept + chunk_of_tokens(shape, tokens) * shape.vocabulary * e + output_layer * (e + FP32),
        loss=kept,
        backward=first + kept_layers + one_layer + working,
        reduction=first + int(kept_layers * (1 - behind)) + one_layer + working,
        backward_end=first + (hidden if checkpointing else 0) + per_layer[0] + working,
    )


def _layer(shape, e, graph, has_gradient, score):
    return llama_layer(shape, e, graph, has_gradient, score, norm=_norm, keeps_silu=False)


def _norm(width, e, has_gradient, trained):
    """What a norm keeps for a token beside its output; that of the last one is kept in any case."""
    return (e * width + FP32) * (has_gradient or trained)


def chunk_of_tokens(shape, tokens):
    """Return for how many tokens the logits exist at a time: a power of two, as large as a hidden state, about."""
    chunks = -(-shape.vocabulary // shape.hidden_size)
    return 1 << (-(-tokens // chunks) - 1).bit_length()
