"""How many bytes a transformer's forward pass keeps for its backward pass, and what both need on top. No torch.

Counted from what PyTorch's autograd saves in transformers' GPT-2 and Llama, operation by operation, without
dropout; tests/memory/test_activations.py compares each shape with the profiler. For the idea of such a count see
Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", arXiv 2205.05198, section 4.

t stands for the tokens of a micro-batch, e for the bytes of one number in the model's precision.
"""

from typing import NamedTuple

ATTENTIONS = ("sdpa", "eager")  # PyTorch's fused attention, and the one that writes the score matrix
RNG_STATE_BYTES = 5056  # a checkpointed layer keeps the CPU generator's state, to draw the same dropout again


class Activations(NamedTuple):
    """Bytes at the moments of one forward and backward pass; each is the whole of what is held then."""

    kept: int  # when the forward pass has ended
    forward: int  # the most during the forward pass
    loss: int  # the most while the loss is in its backward pass, before any parameter has a gradient
    backward: int  # the most while the last layers are in theirs
    reduction: int  # when the first bucket is full of gradients
    backward_end: int  # while the first layer is in its backward pass


NOTHING = Activations(0, 0, 0, 0, 0, 0)


def activation_bytes(
    shape,
    micro_batch_size,
    sequence_length,
    element_bytes,
    attention="sdpa",
    checkpointing=False,
    reduce_bucket_size=0,
):
    """Return the Activations of one micro-batch on one rank, in bytes.

    shape: a labsupport.shapes.Shape; micro_batch_size in samples, sequence_length in tokens;
    checkpointing: every layer is recomputed in the backward pass (transformers' activation_checkpointing_enable);
    reduce_bucket_size: in elements, the gradients after which `reduction` is.
    """
    tokens, e = micro_batch_size * sequence_length, element_bytes
    hidden = tokens * shape.hidden_size * e
    layer = layer_bytes(shape, tokens, sequence_length, e, attention)
    working = layer_working_bytes(shape, tokens, sequence_length, e, attention)
    last_output = 0 if _is_llama(shape) else hidden  # Llama's norms keep copies of their own
    kept_layers = shape.layers * (hidden + RNG_STATE_BYTES if checkpointing else layer)
    # Labels and token numbers are int64.
    first = last_output + 2 * 8 * tokens + rotary_bytes(shape, sequence_length, e)
    mask = tokens * sequence_length * e if attention == "eager" else 0  # kept only where layers are recomputed
    first += mask if checkpointing else 0
    end = final_norm_bytes(shape, tokens, e) + loss_bytes(shape, tokens)
    one_layer = layer if checkpointing else 0  # recomputed, one at a time
    kept = first + kept_layers + end
    behind = min(1.0, reduce_bucket_size / (shape.layers * shape.layer_parameters))  # the part of the layers that is
    return Activations(
        kept=kept,
        forward=max(kept + logits_bytes(shape, tokens, e), kept_layers + first + mask + 3 * hidden),
        loss=kept + 2 * loss_bytes(shape, tokens),  # the gradients of the loss and of its softmax, in fp32
        backward=max(
            first + kept_layers + one_layer + working,
            first + kept_layers + final_norm_working_bytes(shape, tokens),
        ),
        reduction=first + int(kept_layers * (1 - behind)) + one_layer + working,
        backward_end=first + (hidden if checkpointing else 0) + layer + working,
    )


def _is_llama(shape):
    return shape.architecture != "gpt2"


def layer_bytes(shape, tokens, sequence_length, e, attention):
    """Return what one layer keeps.

    GPT-2: two layer norms' outputs, query, key and value, attention's output, two sums with the residual; the
    MLP's first product and its GELU. Llama: two RMS norms, each with an fp32 copy of its
    input, its normalised form and its output; query, key, value and attention's output; gate, its SiLU, up and
    their product.
    """
    h, f = shape.hidden_size, shape.mlp_size
    if not _is_llama(shape):
        inside = tokens * e * (8 * h + 2 * f) + 4 * e * tokens
    else:
        heads = 2 * e * (shape.query_size + shape.key_value_size)
        inside = tokens * (2 * (4 * h + 2 * e * h + 4) + heads + head_norm_bytes(shape, e) + 4 * e * f)
    return inside + attention_bytes(shape, tokens, sequence_length, e, attention)


def head_norm_bytes(shape, e):
    """Return what the norms of query and key keep for a token, as Qwen 3 has them.

    An fp32 copy and the normalised form of each, and a number a head in fp32.
    """
    if not shape.family.head_norms:
        return 0
    wide = shape.query_size + shape.key_value_size
    return wide * (4 + e) + 4 * wide * shape.attention_heads // shape.query_size


def attention_bytes(shape, tokens, sequence_length, e, attention):
    """Return what attention itself keeps: fused, a row sum a head in fp32; eager, the whole score matrix.

    GPT-2's softmax stays in the model's precision, Llama's is computed in fp32 and cast.
    """
    heads = tokens * shape.attention_heads
    if attention == "sdpa":
        return 4 * heads
    cast = 4 if _is_llama(shape) and e < 4 else 0
    return heads * sequence_length * (e + cast)


def rotary_bytes(shape, sequence_length, e):
    """Return Llama's cosines and sines, one row a position, shared by all layers; GPT-2 has none."""
    return 2 * sequence_length * shape.query_size // shape.attention_heads * e if _is_llama(shape) else 0


def layer_working_bytes(shape, tokens, sequence_length, e, attention):
    """Return what the backward pass of one layer needs on top of what the layer keeps.

    In GPT-2's MLP: two MLP-wide gradients, while one MLP-wide tensor and the layer's output are already gone. In
    Llama's: the residual's gradient and three MLP-wide ones, while as much is gone. Beside them a weight's gradient.
    With eager attention, two score-sized gradients, when the MLP's tensors are gone.
    """
    h, f = shape.hidden_size, shape.mlp_size
    wide, kept = (tokens * e * (f - h), 2) if not _is_llama(shape) else (tokens * e * 2 * f, 4)
    in_mlp = wide + h * f * e
    if attention == "sdpa":
        return in_mlp
    score = 4 if _is_llama(shape) else e
    scores = 2 * score * tokens * shape.attention_heads * sequence_length
    return max(in_mlp, scores - kept * tokens * e * f)


def final_norm_bytes(shape, tokens, e):
    """Return what the norm after the last layer keeps: its output; Llama's, an fp32 copy and two more."""
    h = shape.hidden_size
    return tokens * e * (h + 2) if not _is_llama(shape) else tokens * (4 * h + 2 * e * h + 4)


def final_norm_working_bytes(shape, tokens):
    """Return what Llama's last RMS norm needs in its backward pass: its fp32 input and five fp32 gradients."""
    return 0 if not _is_llama(shape) else tokens * shape.hidden_size * 4 * 6


def loss_bytes(shape, tokens):
    """Return what the cross-entropy keeps: the log of the softmax over the vocabulary, in fp32."""
    return 4 * tokens * shape.vocabulary


def logits_bytes(shape, tokens, e):
    """Return the logits, and the fp32 copy that transformers makes of 16-bit ones."""
    return tokens * shape.vocabulary * (e + (4 if e < 4 else 0))
