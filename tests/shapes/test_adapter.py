"""LoRA and frozen tensors in a Shape, against the model that transformers and peft build on the meta device."""

import pytest
import torch
from test_shapes import SMALL

from labsupport.errors import ConfigError
from labsupport.models import build_model
from labsupport.shapes import Adapter, Shape

LLAMA = SMALL["llama"]


def built(shape):
    """(elements, whether it is trained) of each parameter of the real model."""
    with torch.device("meta"):
        model = build_model(shape)
    return [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]


@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("wide", [True, False])
def test_lora_stands_where_peft_puts_it_and_all_else_is_frozen(shape, wide):
    some = {"gpt2": ("c_attn", "c_fc"), "phi3": ("qkv_proj", "down_proj")}.get(shape.architecture, ("q_proj", "v_proj"))
    shape = shape._replace(adapter=Adapter(8, ("all-linear",) if wide else some))
    assert list(zip(shape.tensor_sizes, shape.trained, strict=True)) == built(shape)
    assert shape.parameters == sum(size for size, _ in built(shape))
    assert shape.trained_parameters == sum(size for size, trained in built(shape) if trained)


@pytest.mark.parametrize("frozen", [("embed_tokens.*",), ("layers.0.*", "layers.1.*"), ("*.weight",), ("*proj*",)])
@pytest.mark.parametrize("name", ["qwen2", "starcoder2"])
def test_what_a_pattern_freezes_is_frozen_in_the_model(name, frozen):
    shape = SMALL[name]._replace(frozen=frozen)
    assert list(zip(shape.tensor_sizes, shape.trained, strict=True)) == built(shape)
    assert 0 < shape.trained_parameters < shape.parameters


def test_a_frozen_lora_trains_the_others_alone():
    shape = LLAMA._replace(adapter=Adapter(4, ("q_proj",)), frozen=("layers.0.*",))
    assert shape.trained_parameters == 2 * 2 * 4 * 64
    assert [bool(names) for names in shape.trained_in_layers] == [False, True, True]


def test_a_shape_survives_its_record():
    shape = LLAMA._replace(adapter=Adapter(4, ("q_proj", "v_proj")), frozen=("layers.0.*",))
    assert Shape.from_dict(shape.as_dict()) == shape and Shape.from_dict(LLAMA.as_dict()) == LLAMA


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"adapter": Adapter(8, ("query",))}, "beside 'query', and a layer has no such linear module: it has q_proj"),
        ({"adapter": Adapter(8, ("embed_tokens",))}, "beside 'embed_tokens'"),
        ({"adapter": Adapter(8, ())}, "beside ''"),
        ({"adapter": Adapter(0, ("q_proj",))}, "rank of the adapter is 0"),
        ({"adapter": Adapter(2.5, ("q_proj",))}, "rank of the adapter is 2.5"),
        ({"frozen": ("nothing.*",)}, "No parameter is called 'nothing.\\*': the names are like embed_tokens.weight"),
        ({"frozen": ("*",)}, "All parameters are frozen"),
        ({"frozen": ("*lora*",), "adapter": Adapter(8, ("q_proj",))}, "All parameters are frozen"),
    ],
)
def test_what_cannot_be_trained_so_is_one_sentence(changed, words):
    with pytest.raises(ConfigError, match=words) as raised:
        LLAMA._replace(**changed).trained  # noqa: B018 - read for what it raises
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
