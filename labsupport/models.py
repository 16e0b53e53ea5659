"""The models that the labs train: transformers' own GPT-2 and Llama, built from a config, random weights.

Every preset reads bytes (a vocabulary of 256) and has no dropout, so that two runs with one seed agree and
most parameters sit in the layers that ZeRO partitions.
"""

import difflib
import warnings

from labsupport.errors import ConfigError
from labsupport.shapes import Shape, config_of, known_models, shape_of
from labsupport.shapes.adapter import ALL_LINEAR

BYTE_VOCABULARY = 256
PRESETS = {
    "tiny": Shape("gpt2", 2, 64, 2, 128, 256, BYTE_VOCABULARY),
    "1m": Shape("gpt2", 4, 128, 4, 256, 512, BYTE_VOCABULARY),
    "10m": Shape("gpt2", 6, 384, 6, 512, 1536, BYTE_VOCABULARY),
    "85m": Shape("gpt2", 12, 768, 12, 1024, 3072, BYTE_VOCABULARY),
    "300m": Shape("gpt2", 24, 1024, 16, 1024, 4096, BYTE_VOCABULARY),
    "1.3b": Shape("gpt2", 24, 2048, 16, 2048, 8192, BYTE_VOCABULARY),
    "7b": Shape("llama", 32, 4096, 32, 4096, 11008, BYTE_VOCABULARY),
}


def shape_named(name):
    """Return the Shape of a preset or of a well-known model; raises ConfigError, with the nearest name, for another."""
    if name in PRESETS:
        return PRESETS[name]
    if str(name).lower() in known_models():
        return shape_of(name)
    names = [*PRESETS, *known_models()]
    close = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    nearest = f"did you mean {close[0]!r}? There are" if close else "choose one of"
    raise ConfigError(f"There is no model {name!r}: {nearest} {', '.join(names)}.")


def model_config(preset):
    """Return the transformers config of a preset, by name or as a Shape; raises ConfigError for an unknown name."""
    from transformers import AutoConfig

    shape = preset if isinstance(preset, Shape) else shape_named(preset)
    # No generation happens here, and byte 50256 does not exist: name no special tokens.
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "use_cache": False}
    if shape.architecture == "gpt2":
        # GPT-2's GELU as PyTorch's one kernel: transformers' own spelling of it is eight, and keeps three tensors more.
        tokens |= {"activation_function": "gelu_pytorch_tanh", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return AutoConfig.for_model(**config_of(shape), **tokens)


def build_model(preset, seed=0):
    """Build a causal language model with random weights, the same on every rank for one seed.

    Give the result batches of {"input_ids", "labels"}, int64 of shape (samples, tokens); it returns a
    transformers output with the mean next-byte loss in nats as `.loss`. A Shape's adapter is added by peft, and what
    it freezes is frozen.
    """
    import torch
    from transformers import AutoModelForCausalLM

    shape = preset if isinstance(preset, Shape) else shape_named(preset)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(model_config(shape))
    model.loss_type = "ForCausalLM"  # transformers guesses it from the class's name, and warns about GPT-2's
    if shape.adapter:
        model = _with_adapter(model, shape)
    if shape.frozen:
        for parameter, trained in zip(model.parameters(), shape.trained, strict=True):
            parameter.requires_grad_(trained)
    return model


def _with_adapter(model, shape):
    from peft import LoraConfig, get_peft_model

    beside = shape.adapter.targets
    targets = ALL_LINEAR if ALL_LINEAR in beside else list(beside)
    lora = LoraConfig(r=shape.adapter.rank, target_modules=targets, fan_in_fan_out=shape.architecture == "gpt2")
    with warnings.catch_warnings():
        # peft 0.21 asks by the name that checkpointing had before transformers 5.18.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # And of models with experts it expects an adapter beside them, which this one need not have.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys did not match", RuntimeWarning)
        return get_peft_model(model, lora)


def checkpoint_activations(model):
    """Let every layer of the model be recomputed in the backward pass, whatever this transformers calls that."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # up to transformers 5.17 only the other name
    (enable or model.gradient_checkpointing_enable)()


def count_parameters(model):
    """Return the number of trainable parameters, shared ones once, whole ones also under ZeRO-3."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)


def layers_of(model):
    """Return the transformer layers of a model of labsupport.models."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of peft's wrapper
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def compile_layers(model, backend="inductor"):
    """Let torch.compile compile each transformer layer of the model, in place: one graph that all of them share."""
    for layer in layers_of(model):
        layer.compile(backend=backend)
