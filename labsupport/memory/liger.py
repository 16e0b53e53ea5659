"""The activations of a Llama whose norms, MLP and loss are Liger's kernels: no logits, fewer copies. No torch.

Read in Liger-Kernel at ead96b6 (2026-08-21), ops/rms_norm.py, swiglu.py and fused_linear_cross_entropy.py, as
apply_liger_kernel_to_llama puts them in. The kernels need a GPU: nothing here was measured by this project;
published.py holds it against runs of others.
"""

from labsupport.memory.activations import RNG_STATE_BYTES, Activations, attention_bytes, head_norm_bytes, rotary_bytes

FP32 = 4


def liger_activation_bytes(
    shape, micro_batch_size, sequence_length, element_bytes, checkpointing=False, reduce_bucket_size=0
):
    """Return the Activations of one micro-batch on one rank, in bytes, with PyTorch's fused attention.

    A norm keeps its input, its output and a number a token in fp32; the MLP keeps gate, up and their product, and
    writes its gradients over gate and up. The loss makes the gradients of its input and of the output layer's weight
    in the forward pass, and keeps them; the logits exist for one chunk of tokens.
    """
    tokens, e = micro_batch_size * sequence_length, element_bytes
    h, f, hidden = shape.hidden_size, shape.mlp_size, tokens * shape.hidden_size * e
    norm = 2 * hidden + FP32 * tokens
    heads = tokens * (2 * e * (shape.query_size + shape.key_value_size) + head_norm_bytes(shape, e))
    layer = 2 * norm + heads + attention_bytes(shape, tokens, sequence_length, e, "sdpa") + 3 * tokens * f * e
    working = tokens * e * (f + h) + h * f * e  # the gradients of the product and of the residual, and of a weight
    kept_layers = shape.layers * (hidden + RNG_STATE_BYTES if checkpointing else layer)
    first = 2 * 8 * tokens + rotary_bytes(shape, sequence_length, e)
    output_layer = shape.vocabulary * h
    of_loss = hidden + output_layer * e
    kept = first + kept_layers + norm + of_loss
    one_layer = layer if checkpointing else 0
    behind = min(1.0, reduce_bucket_size / (shape.layers * shape.layer_parameters))
    return Activations(
        kept=kept,
        # A chunk's logits, and its part of the weight's gradient in both precisions.
        forward=kept + chunk_of_tokens(shape, tokens) * shape.vocabulary * e + output_layer * (e + FP32),
        loss=kept,
        backward=first + kept_layers + one_layer + working,
        reduction=first + int(kept_layers * (1 - behind)) + one_layer + working,
        backward_end=first + (hidden if checkpointing else 0) + layer + working,
    )


def chunk_of_tokens(shape, tokens):
    """Return for how many tokens the logits exist at a time: a power of two, as large as a hidden state, about."""
    chunks = -(-shape.vocabulary // shape.hidden_size)
    return 1 << (-(-tokens // chunks) - 1).bit_length()
