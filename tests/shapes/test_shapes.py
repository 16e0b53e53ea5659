"""A Shape's tensors are those of the model that transformers itself builds, for each architecture and known model."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from labsupport.errors import ConfigError
from labsupport.models import model_config, shape_named
from labsupport.shapes import Shape, config_of, known_models, shape_of, shape_of_config, shape_of_file
from labsupport.shapes.families import FAMILIES

EXPERTS = {"experts": 4, "experts_per_token": 2}
SMALL = {
    name: Shape(name, 3, 64, 4, 128, 96, 130, key_value_heads=4 if name == "gpt2" else 2, head_size=16)
    for name in FAMILIES
} | {
    "mixtral": Shape("mixtral", 3, 64, 4, 128, 96, 130, 2, 16, **EXPERTS),
    "qwen3_moe": Shape("qwen3_moe", 3, 64, 4, 128, 32, 130, 2, 16, **EXPERTS),
    "qwen2_moe": Shape("qwen2_moe", 3, 64, 4, 128, 32, 130, 2, 16, shared_expert_size=48, **EXPERTS),
}


def built(shape):
    """(name, shape) of each parameter of transformers' own model, without what says which layer it is in."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(shape))
    return [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]


@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
def test_the_tensors_are_those_of_transformers_in_its_order(shape):
    real = built(shape)
    assert shape.tensor_sizes == [torch.Size(size).numel() for _, size in real]
    second_layer = [(re.split(r"\.1\.", name)[1], size) for name, size in real if re.search(r"(layers|\bh)\.1\.", name)]
    assert [(tensor.name, tensor.shape) for tensor in shape.layer_tensors] == second_layer


@pytest.mark.parametrize("name", ["llama", "qwen3", "olmo2", "granite", "gemma"])
def test_biases_and_an_output_layer_are_where_transformers_has_them(name):
    shape = SMALL[name]._replace(attention_bias=True, tied=not SMALL[name].is_tied)
    assert shape.tensor_sizes == [torch.Size(size).numel() for _, size in built(shape)]


@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("tied", [True, False])
def test_a_shape_and_its_config_say_the_same(shape, tied):
    if shape.architecture != "gpt2":  # whose output layer is always the embedding here
        shape = shape._replace(tied=tied)
    again = shape_of_config(config_of(shape))
    assert again.tensor_sizes == shape.tensor_sizes and config_of(again) == config_of(shape)


@pytest.mark.parametrize("name", known_models())
def test_a_known_model_is_what_transformers_builds_and_as_large_as_its_name(name):
    shape = shape_of(name)
    if shape.parameters < 10**11:
        real = sum(torch.Size(size).numel() for _, size in built(shape._replace(layers=2)))
        assert real == shape._replace(layers=2).parameters
    billions = re.search(r"(?:(\d+)x)?([\d.]+)b", name)
    if billions and not billions[1]:  # 8x7b is less than 8 times 7: the attention is not multiplied
        # Gemma 2 2b has 2.6 billion: its embedding is not in its name.
        assert shape.parameters == pytest.approx(float(billions[2]) * 1e9, rel=0.35)


def test_active_parameters_leave_out_the_experts_that_a_token_does_not_visit():
    shape = SMALL["mixtral"]
    per_expert = 3 * 96 * 64
    assert shape.parameters - shape.active_parameters == 3 * 2 * per_expert
    assert SMALL["llama"].active_parameters == SMALL["llama"].parameters


def test_a_file_a_folder_and_a_name_in_any_case(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of(SMALL["qwen3"])))
    assert shape_of_file(tmp_path) == shape_of_file(tmp_path / "config.json")
    assert shape_of("Llama-3.1-8B").parameters == 8_030_261_248


LLAMA = config_of(SMALL["llama"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "model_type None, which the planner does not know: it knows gpt2"),
        (LLAMA | {"model_type": "mamba"}, "model_type 'mamba'"),
        ({"model_type": "llama"}, "has no num_hidden_layers"),
        ({key: value for key, value in LLAMA.items() if key != "intermediate_size"}, "has no intermediate_size"),
        (LLAMA | {"hidden_size": 0}, "hidden_size of the config is 0"),
        (LLAMA | {"hidden_size": "64"}, "hidden_size of the config is '64'"),
        (LLAMA | {"num_key_value_heads": 3}, "4 attention heads on 3 key heads"),
        (LLAMA | {"head_dim": None, "hidden_size": 66}, "a hidden_size of 66 and 4 heads"),
        (LLAMA | {"hidden_size": 10**9, "intermediate_size": 10**9}, "more than 1e\\+14"),
        (LLAMA | {"mlp_bias": True}, "mlp_bias"),
        (config_of(SMALL["mixtral"]) | {"num_experts_per_tok": 9}, "9 of 4 experts"),
        (config_of(SMALL["mixtral"]) | {"num_local_experts": None}, "has no num_local_experts"),
        (config_of(SMALL["qwen2_moe"]) | {"shared_expert_intermediate_size": "48"}, "intermediate_size of the config"),
        (config_of(SMALL["starcoder2"]) | {"use_bias": False}, "use_bias"),
        (LLAMA | {"model_type": ["llama"]}, "model_type \\['llama'\\]"),
        (LLAMA | {"hidden_size": 10**200}, "more than 1e\\+14"),
        (LLAMA | {"num_hidden_layers": 10**12}, "10,000 layers"),
        ([], "holds a list"),
    ],
)
def test_a_config_that_cannot_be_planned_is_one_sentence(config, words):
    with pytest.raises(ConfigError, match=words) as raised:
        shape_of_config(config)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_a_name_and_a_file_that_are_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'llama-3.1-8b'"):
        shape_named("llama-3.1-9b")
    with pytest.raises(ConfigError, match="There is no model '70b': .* llama-3.1-70b"):
        shape_named("70b")
    with pytest.raises(ConfigError, match="There is no file"):
        shape_of_file(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        shape_of_file(tmp_path)
