"""The models that the labs train: transformers' own GPT-2 and Llama, built from a config, random weights.

Every preset reads bytes (a vocabulary of 256) and has no dropout, so that two runs with one seed agree and
most parameters sit in the layers that ZeRO partitions.
"""

import difflib
from typing import NamedTuple

from labsupport.errors import ConfigError

BYTE_VOCABULARY = 256


class Preset(NamedTuple):
    """The shape of a model; longest_sequence is in tokens, mlp_size and vocabulary in elements."""

    architecture: str  # "gpt2" or "llama"
    layers: int
    hidden_size: int
    attention_heads: int
    longest_sequence: int
    mlp_size: int
    vocabulary: int = BYTE_VOCABULARY

    @property
    def tensor_sizes(self):
        """The elements of every parameter tensor, in the order of model.parameters(); tied ones stand once."""
        h, words = self.hidden_size, self.vocabulary * self.hidden_size
        layers = self._layer_sizes * self.layers
        if self.architecture == "gpt2":
            return [words, self.longest_sequence * h, *layers, h, h]
        return [words, *layers, h, words]

    @property
    def _layer_sizes(self):
        h, mlp = self.hidden_size, self.mlp_size
        if self.architecture == "gpt2":
            return [h, h, 3 * h * h, 3 * h, h * h, h, h, h, h * mlp, mlp, mlp * h, h]
        return [h * h] * 4 + [h * mlp] * 3 + [h, h]

    @property
    def layer_parameters(self):
        """How many parameters one layer has."""
        return sum(self._layer_sizes)

    @property
    def parameters(self):
        """How many parameters the model has."""
        return sum(self.tensor_sizes)


PRESETS = {
    "tiny": Preset("gpt2", 2, 64, 2, 128, 256),
    "1m": Preset("gpt2", 4, 128, 4, 256, 512),
    "10m": Preset("gpt2", 6, 384, 6, 512, 1536),
    "85m": Preset("gpt2", 12, 768, 12, 1024, 3072),
    "300m": Preset("gpt2", 24, 1024, 16, 1024, 4096),
    "1.3b": Preset("gpt2", 24, 2048, 16, 2048, 8192),
    "7b": Preset("llama", 32, 4096, 32, 4096, 11008),
}


def preset_named(name):
    """Return the Preset of that name; raises ConfigError, with the nearest name, where there is none."""
    if name not in PRESETS:
        close = difflib.get_close_matches(str(name).lower(), PRESETS, n=1, cutoff=0.5)
        nearest = f"did you mean {close[0]!r}? There are" if close else "choose one of"
        raise ConfigError(f"There is no model {name!r}: {nearest} {', '.join(PRESETS)}.")
    return PRESETS[name]


def model_config(preset):
    """Return the transformers config of a preset, by name or as a Preset; raises ConfigError for an unknown name."""
    from transformers import GPT2Config, LlamaConfig

    shape = preset if isinstance(preset, Preset) else preset_named(preset)
    architecture, layers, hidden, heads, positions, mlp, vocabulary = shape
    # No generation happens here, and byte 50256 does not exist: name no special tokens.
    tokens = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None, "use_cache": False}
    if architecture == "gpt2":
        # GPT-2's GELU as PyTorch's one kernel: transformers' own spelling of it is eight, and keeps three tensors more.
        tokens["activation_function"] = "gelu_pytorch_tanh"
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(
            n_layer=layers, n_embd=hidden, n_head=heads, n_positions=positions, n_inner=mlp, **tokens, **dropout
        )
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        **tokens,
    )


def build_model(preset, seed=0):
    """Build a causal language model with random weights, the same on every rank for one seed.

    Give the result batches of {"input_ids", "labels"}, int64 of shape (samples, tokens); it returns a
    transformers output with the mean next-byte loss in nats as `.loss`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(model_config(preset))
    model.loss_type = "ForCausalLM"  # transformers guesses it from the class's name, and warns about GPT-2's
    return model


def checkpoint_activations(model):
    """Let every layer of the model be recomputed in the backward pass, whatever this transformers calls that."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # up to transformers 5.17 only the other name
    (enable or model.gradient_checkpointing_enable)()


def count_parameters(model):
    """Return the number of trainable parameters, shared ones once, whole ones also under ZeRO-3."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)


def layers_of(model):
    """Return the transformer layers of a model of labsupport.models."""
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def compile_layers(model, backend="inductor"):
    """Let torch.compile compile each transformer layer of the model, in place: one graph that all of them share."""
    for layer in layers_of(model):
        layer.compile(backend=backend)
