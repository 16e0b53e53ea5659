"""How many bytes a transformer's forward pass keeps for its backward pass, and what both need on top. No torch.

Counted from what PyTorch's autograd saves in transformers' GPT-2 and Llama, operation by operation, without
dropout; tests/memory/test_activations.py compares each shape with the profiler. For the idea of such a count see
Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", arXiv 2205.05198, section 4.

A tensor is kept for those who need it: the input of a linear map for the gradient of its weight or of the LoRA beside
it, everything else for the gradient of what came before. So what is frozen keeps less, and a layer that nothing trained
comes before keeps nothing. Where layers are recomputed, transformers lets the embedding's output have a gradient always
(enable_input_require_grads), so that all of them are.

t stands for the tokens of a micro-batch, e for the bytes of one number in the model's precision.
"""

from functools import lru_cache
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
    keeps_linear_inputs=False,
):
    """Return the Activations of one micro-batch on one rank, in bytes.

    shape: a labsupport.shapes.Shape; micro_batch_size in samples, sequence_length in tokens;
    checkpointing: every layer is recomputed in the backward pass (transformers' activation_checkpointing_enable);
    reduce_bucket_size: in elements, the gradients after which `reduction` is. keeps_linear_inputs: a linear map keeps
    its input though its weight is frozen, as ZeRO-3's does (memory_efficient_linear, on by default; zero/linear.py).
    """
    tokens, e, always = micro_batch_size * sequence_length, element_bytes, keeps_linear_inputs and _is_llama(shape)
    hidden = tokens * shape.hidden_size * e
    per_layer = [
        tokens * each for each in layers_per_token(shape, sequence_length, e, attention, checkpointing, always)
    ]
    ends = [count for count in per_layer if count] or [0]  # the first and the last that the backward pass comes through
    comes_through = any(per_layer)  # the backward pass, through the layers
    working = layer_working_bytes(shape, tokens, sequence_length, e, attention, always) if comes_through else 0
    last_output = 0 if _is_llama(shape) or not comes_through else hidden  # Llama's norms keep copies of their own
    if checkpointing and not _is_llama(shape) and "embed_tokens.weight" not in shape.trained_outside:
        last_output += hidden  # the frozen embedding's output, to which that of the positions is added
    kept_layers = sum((hidden + RNG_STATE_BYTES if checkpointing else each) for each in per_layer if each)
    # Labels and token numbers are int64.
    first = last_output + 2 * 8 * tokens + rotary_bytes(shape, sequence_length, e) * comes_through
    mask = tokens * sequence_length * e if attention == "eager" else 0  # kept only where layers are recomputed
    first += mask if checkpointing else 0
    end = final_norm_bytes(shape, tokens, e, comes_through, always) + loss_bytes(shape, tokens)
    kept = first + kept_layers + end
    behind = min(1.0, reduce_bucket_size / max(1, trained_in_layers(shape)))  # the part of the layers that is
    return Activations(
        kept=kept,
        forward=max(
            kept + logits_bytes(shape, tokens, e),
            kept_layers + first + mask + 3 * hidden + passing_bytes(shape, tokens, e, comes_through, always),
        ),
        loss=kept + 2 * loss_bytes(shape, tokens),  # the gradients of the loss and of its softmax, in fp32
        backward=max(
            first + kept_layers + (ends[-1] if checkpointing else 0) + working,  # recomputed, one at a time
            first + kept_layers + final_norm_working_bytes(shape, tokens) * comes_through,
        ),
        reduction=first + int(kept_layers * (1 - behind)) + (ends[-1] if checkpointing else 0) + working,
        backward_end=first + (hidden if checkpointing else 0) + ends[0] + working,
    )


def _is_llama(shape):
    return shape.architecture != "gpt2"


def trained_in_layers(shape):
    """Return how many trained parameters the layers have together."""
    before, after = shape.outer_tensors
    outside = sum(tensor.elements for tensor in (*before, *after) if tensor.name in shape.trained_outside)
    return shape.trained_parameters - outside


# The linear maps of an MLP, the first ones and the last: GPT-2's and Llama's.
_MLP = (
    (("mlp.c_fc",), "mlp.c_proj"),
    (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
)


class Graph:
    """Which tensors of a layer are trained, as its autograd graph asks; lora_rank of 0: no adapter.

    always: linear maps keep an input that has a gradient whether or not their weight is trained.
    """

    def __init__(self, trained, lora_rank=0, always=False):
        self.trained, self.lora_rank, self.always = trained, lora_rank, always

    def __contains__(self, module):
        """Whether a module's weight is trained."""
        return f"{module}.weight" in self.trained

    def needs_input_of(self, *modules, has_gradient=True):
        """Whether the input of one of them is kept: for the gradient of a weight or of its LoRA, or always."""
        if self.always and has_gradient:
            return True
        return any(module in self or f"{module}.lora_A.weight" in self.trained for module in modules)

    def inside_lora(self, *modules):
        """The width of what the LoRA beside these modules keep between their two matrices."""
        return sum(f"{module}.lora_A.weight" in self.trained for module in modules) * self.lora_rank

    def any_of(self, *modules):
        """Whether anything of one of these modules is trained."""
        return any(name.startswith(f"{module}.") for name in self.trained for module in modules)


@lru_cache(maxsize=256)
def layers_per_token(shape, sequence_length, e, attention="sdpa", checkpointing=False, always=False, layer=None):
    """Return what each layer keeps for a token, in bytes: 0 before the first that something trained comes before.

    layer: counts one layer, by default as transformers computes it.
    """
    rank = shape.adapter.rank if shape.adapter else 0
    has_gradient = checkpointing or bool(shape.trained_outside & {"embed_tokens.weight", "positions.weight"})
    found, counted, layer = [], {}, layer or (llama_layer if _is_llama(shape) else gpt2_layer)
    for trained in shape.trained_in_layers:
        if (trained, has_gradient) not in counted:
            score = attention_bytes(shape, 1, sequence_length, e, attention)
            counted[trained, has_gradient] = layer(shape, e, Graph(trained, rank, always), has_gradient, score)
        found.append(counted[trained, has_gradient])
        has_gradient = has_gradient or bool(trained)
    return tuple(found)


def llama_layer(shape, e, graph, has_gradient, score, norm=None, keeps_silu=True):
    """What one layer keeps for a token: has_gradient says whether its input has one, score is attention's own.

    Two RMS norms, each with an fp32 copy of its input, its normalised form (for its weight) and its output (for those
    of the linear maps); query, key, value and attention's output; gate, its SiLU, up and their product. norm: another
    count of a norm; keeps_silu: whether the SiLU is kept.
    """
    h, f = shape.hidden_size, shape.mlp_size
    query_key_value = [f"self_attn.{name}_proj" for name in "qkv"]
    output, (into_mlp, down) = "self_attn.o_proj", _MLP[True]
    kept = e * graph.inside_lora(*query_key_value, output, *into_mlp, down)
    norm = norm or _rms_norm
    kept += norm(h, e, has_gradient, "input_layernorm" in graph)
    has_gradient_inside = has_gradient or graph.any_of("input_layernorm")
    kept += e * h * graph.needs_input_of(*query_key_value, has_gradient=has_gradient_inside)
    in_attention = has_gradient_inside or graph.any_of(*query_key_value)
    if in_attention:
        kept += 2 * e * (shape.query_size + shape.key_value_size) + score
        kept += head_norm_bytes(shape, e, "self_attn.q_norm" in graph)
    elif graph.needs_input_of(output, has_gradient=False):
        kept += e * shape.query_size
    has_gradient = in_attention or graph.any_of(output)
    kept += norm(h, e, has_gradient, "post_attention_layernorm" in graph)
    has_gradient = has_gradient or graph.any_of("post_attention_layernorm")
    kept += e * h * graph.needs_input_of(*into_mlp, has_gradient=has_gradient)
    of_gate, of_up = (has_gradient or graph.any_of(module) for module in into_mlp)
    if keeps_silu:
        kept += e * f * (2 * of_gate + of_up)  # the gate and up for the gate's gradient, its SiLU for up's
    else:
        kept += 2 * e * f * (of_gate or of_up)
    return kept + e * f * graph.needs_input_of(down, has_gradient=of_gate or of_up)


def _rms_norm(width, e, has_gradient, trained):
    return (4 * width + 4) * has_gradient + e * width * trained


def gpt2_layer(shape, e, graph, has_gradient, score):
    """What one layer keeps for a token, as for Llama.

    Two layer norms, each with its input, two numbers and its output; query, key, value and attention's output; the
    MLP's first product and its GELU.
    """
    h, f = shape.hidden_size, shape.mlp_size
    kept = e * graph.inside_lora("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    kept += e * (h + 2) * (has_gradient or graph.any_of("ln_1")) + e * h * graph.needs_input_of("attn.c_attn")
    in_attention = has_gradient or graph.any_of("ln_1", "attn.c_attn")
    kept += (4 * e * h + score) * in_attention + e * h * (not in_attention and graph.needs_input_of("attn.c_proj"))
    has_gradient = in_attention or graph.any_of("attn.c_proj")
    kept += e * (h + 2) * (has_gradient or graph.any_of("ln_2")) + e * h * graph.needs_input_of("mlp.c_fc")
    kept += e * f * (has_gradient or graph.any_of("ln_2", "mlp.c_fc")) + e * f * graph.needs_input_of("mlp.c_proj")
    return kept


def head_norm_bytes(shape, e, trained=True):
    """Return what the norms of query and key keep for a token, as Qwen 3 has them.

    An fp32 copy and a number a head in fp32; the normalised form of each where the norms are trained.
    """
    if not shape.family.head_norms:
        return 0
    wide = shape.query_size + shape.key_value_size
    return wide * (4 + e * trained) + 4 * wide * shape.attention_heads // shape.query_size


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


def passing_bytes(shape, tokens, e, comes_through=True, always=False):
    """Return what a layer's forward pass makes and does not keep: nothing that counts where all is trained.

    Where the last weight of the MLP is frozen, the MLP-wide product that goes into it; where the backward pass does not
    come through the layers, all that their MLP has at a time.
    """
    _, down = _MLP[_is_llama(shape)]
    if not comes_through:
        return tokens * e * ((3 if _is_llama(shape) else 2) * shape.mlp_size + shape.hidden_size)
    return 0 if always or _last_trained(shape).needs_input_of(down) else tokens * e * shape.mlp_size


def _last_trained(shape):
    return Graph(next((names for names in reversed(shape.trained_in_layers) if names), frozenset()))


def layer_working_bytes(shape, tokens, sequence_length, e, attention, always=False):
    """Return what the backward pass of one layer needs on top of what the layer keeps.

    In GPT-2's MLP: two MLP-wide gradients, while one MLP-wide tensor and the layer's output are already gone. In
    Llama's: the residual's gradient and three MLP-wide ones, while as much is gone; beside them a weight's gradient.
    One MLP-wide tensor less is gone where the last weight of the MLP is frozen and so kept no input. With eager
    attention, two score-sized gradients, when the MLP's tensors are gone.
    """
    h, f = shape.hidden_size, shape.mlp_size
    wide, kept = (tokens * e * (f - h), 2) if not _is_llama(shape) else (tokens * e * 2 * f, 4)
    into_mlp, down = _MLP[_is_llama(shape)]
    weights = any(module in _last_trained(shape) for module in (*into_mlp, down))
    in_mlp = wide + passing_bytes(shape, tokens, e, always=always) + h * f * e * weights
    if attention == "sdpa":
        return in_mlp
    score = 4 if _is_llama(shape) else e
    scores = 2 * score * tokens * shape.attention_heads * sequence_length
    return max(in_mlp, scores - kept * tokens * e * f)


def final_norm_bytes(shape, tokens, e, has_gradient=True, always=False):
    """Return what the norm after the last layer keeps: its output; Llama's, an fp32 copy and two more.

    The output is for the weight of the output layer, Llama's normalised form for its own, the copy for what came
    before: has_gradient says whether that has one.
    """
    h, outside = shape.hidden_size, shape.trained_outside
    has_output_gradient = has_gradient or "norm.weight" in outside
    trains_output = bool(outside & {"embed_tokens.weight" if shape.is_tied else "lm_head.weight"})
    output = e * h * (trains_output or (always and has_output_gradient))
    if not _is_llama(shape):
        return tokens * (output + 2 * e)
    return tokens * (output + _rms_norm(h, e, has_gradient, "norm.weight" in outside))


def final_norm_working_bytes(shape, tokens):
    """Return what Llama's last RMS norm needs in its backward pass: its fp32 input and five fp32 gradients."""
    return 0 if not _is_llama(shape) else tokens * shape.hidden_size * 4 * 6


def loss_bytes(shape, tokens):
    """Return what the cross-entropy keeps: the log of the softmax over the vocabulary, in fp32."""
    return 4 * tokens * shape.vocabulary


def logits_bytes(shape, tokens, e):
    """Return the logits, and the fp32 copy that transformers makes of 16-bit ones."""
    return tokens * shape.vocabulary * (e + (4 if e < 4 else 0))
