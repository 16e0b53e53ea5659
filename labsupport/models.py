"""The models that the labs train: transformers' own GPT-2 and Llama, built from a config, random weights.

Every preset reads bytes (a vocabulary of 256) and has no dropout, so that two runs with one seed agree and
most parameters sit in the layers that ZeRO partitions.
"""

from typing import NamedTuple

from labsupport.errors import ConfigError

BYTE_VOCABULARY = 256


class Preset(NamedTuple):
    """The shape of a model; longest_sequence is in tokens."""

    architecture: str
    layers: int
    hidden_size: int
    attention_heads: int
    longest_sequence: int


PRESETS = {
    "tiny": Preset("gpt2", 2, 64, 2, 128),
    "1m": Preset("gpt2", 4, 128, 4, 256),
    "10m": Preset("gpt2", 6, 384, 6, 512),
    "85m": Preset("gpt2", 12, 768, 12, 1024),
    "300m": Preset("gpt2", 24, 1024, 16, 1024),
    "1.3b": Preset("gpt2", 24, 2048, 16, 2048),
    "7b": Preset("llama", 32, 4096, 32, 4096),
}


def model_config(preset):
    """Return the transformers config of a preset; raises ConfigError for a name that is not one."""
    if preset not in PRESETS:
        raise ConfigError(f"There is no model {preset!r}: choose one of {', '.join(PRESETS)}.")
    from transformers import GPT2Config, LlamaConfig

    architecture, layers, hidden, heads, positions = PRESETS[preset]
    # No generation happens here, and byte 50256 does not exist: name no special tokens.
    tokens = {"vocab_size": BYTE_VOCABULARY, "bos_token_id": None, "eos_token_id": None, "use_cache": False}
    if architecture == "gpt2":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(n_layer=layers, n_embd=hidden, n_head=heads, n_positions=positions, **tokens, **dropout)
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=11008,
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


def count_parameters(model):
    """Return the number of trainable parameters, shared ones once, whole ones also under ZeRO-3."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
