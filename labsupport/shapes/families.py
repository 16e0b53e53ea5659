"""What a layer of each architecture is made of, in transformers 5: the tensors' names and shapes. No torch.

tests/shapes compares every family with the model that transformers itself builds on the meta device.
"""

from typing import NamedTuple


class Family(NamedTuple):
    """An architecture: what its layers have beside the attention and the MLP of a Llama."""

    bias: str = ""  # of the attention: "" none, "qkv" query, key and value, "all" the output too
    head_norms: str = ""  # on query and key: "" none, "head" one head's width, "row" that of all heads
    mlp: str = "gated"  # gate, up and down; "fused": gate and up are one tensor; "plain": two, with biases
    fused_qkv: bool = False
    norms: tuple = ("input_layernorm", "post_attention_layernorm")  # a layer's, where they have weights
    norm_bias: bool = False
    tied: bool = False
    learned_positions: bool = False
    experts: bool = False
    head_size: int | None = None  # where the config.json need not say it
    counted: bool = False  # whether memory/activations.py counts what it keeps for the backward pass
    own_layer: object = None  # a function of a Shape, for an architecture that shares nothing with a Llama

    def layer(self, shape):
        """Yield (name, shape) of each tensor of one layer, in the order of model.parameters()."""
        if self.own_layer:
            return self.own_layer(shape)
        return [*_attention(self, shape), *_mlp(self, shape), *_norms(self, shape)]


def _attention(family, shape):
    h, q, kv = shape.hidden_size, shape.query_size, shape.key_value_size
    bias = "all" if shape.attention_bias else family.bias
    if family.fused_qkv:
        return [("self_attn.o_proj.weight", (h, q)), ("self_attn.qkv_proj.weight", (q + 2 * kv, h))]
    tensors = []
    for name, rows, columns in (("q_proj", q, h), ("k_proj", kv, h), ("v_proj", kv, h), ("o_proj", h, q)):
        tensors.append((f"self_attn.{name}.weight", (rows, columns)))
        if bias == "all" or (bias == "qkv" and name != "o_proj"):
            tensors.append((f"self_attn.{name}.bias", (rows,)))
    if family.head_norms:
        one_head = q // shape.attention_heads
        widths = (one_head, one_head) if family.head_norms == "head" else (q, kv)
        tensors += [
            (f"self_attn.{name}.weight", (width,)) for name, width in zip(("q_norm", "k_norm"), widths, strict=True)
        ]
    return tensors


def _mlp(family, shape):
    h, f = shape.hidden_size, shape.mlp_size
    if shape.experts:
        return _experts(shape)
    if family.mlp == "plain":
        weights = (("c_fc.weight", (f, h)), ("c_fc.bias", (f,)), ("c_proj.weight", (h, f)), ("c_proj.bias", (h,)))
    elif family.mlp == "fused":
        weights = (("gate_up_proj.weight", (2 * f, h)), ("down_proj.weight", (h, f)))
    else:
        weights = _gated(h, f)
    return [(f"mlp.{name}", size) for name, size in weights]


def _gated(h, f):
    return ("gate_proj.weight", (f, h)), ("up_proj.weight", (f, h)), ("down_proj.weight", (h, f))


def _experts(shape):
    """The router, and the experts of a layer in two tensors, as transformers has had them since its release 5."""
    h, f, count, shared = shape.hidden_size, shape.mlp_size, shape.experts, shape.shared_expert_size
    tensors = [("mlp.experts.gate_up_proj", (count, 2 * f, h)), ("mlp.experts.down_proj", (count, h, f))]
    router = ("mlp.gate.weight", (count, h))
    tensors = [*tensors, router] if shape.architecture == "qwen3_moe" else [router, *tensors]
    if shared:
        tensors += [(f"mlp.shared_expert.{name}", size) for name, size in _gated(h, shared)]
        tensors.append(("mlp.shared_expert_gate.weight", (1, h)))
    return tensors


def _norms(family, shape):
    parts = ("weight", "bias") if family.norm_bias else ("weight",)
    return [(f"{name}.{part}", (shape.hidden_size,)) for name in family.norms for part in parts]


def _gpt2_layer(shape):
    h, f = shape.hidden_size, shape.mlp_size
    sizes = {
        "ln_1.weight": (h,), "ln_1.bias": (h,),
        "attn.c_attn.weight": (h, 3 * h), "attn.c_attn.bias": (3 * h,),
        "attn.c_proj.weight": (h, h), "attn.c_proj.bias": (h,),
        "ln_2.weight": (h,), "ln_2.bias": (h,),
        "mlp.c_fc.weight": (h, f), "mlp.c_fc.bias": (f,),
        "mlp.c_proj.weight": (f, h), "mlp.c_proj.bias": (h,),
    }  # fmt: skip
    return list(sizes.items())


AROUND_BOTH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
FAMILIES = {
    "gpt2": Family(counted=True, own_layer=_gpt2_layer, norm_bias=True, tied=True, learned_positions=True),
    "llama": Family(counted=True),
    "mistral": Family(counted=True),
    "granite": Family(counted=True),
    "smollm3": Family(counted=True, tied=True),
    "qwen2": Family(counted=True, bias="qkv"),
    "qwen3": Family(counted=True, head_size=128, head_norms="head"),
    "olmo": Family(norms=()),
    "olmo2": Family(head_norms="row", norms=("post_attention_layernorm", "post_feedforward_layernorm")),
    "phi3": Family(fused_qkv=True, mlp="fused"),
    "gemma": Family(head_size=256, tied=True),
    "gemma2": Family(head_size=256, norms=AROUND_BOTH, tied=True),
    "gemma3_text": Family(head_size=256, head_norms="head", norms=AROUND_BOTH, tied=True),
    "starcoder2": Family(bias="all", mlp="plain", norm_bias=True, tied=True),
    "mixtral": Family(experts=True),
    "qwen2_moe": Family(experts=True, bias="qkv"),
    "qwen3_moe": Family(experts=True, head_norms="head"),
}
