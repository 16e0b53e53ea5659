"""Plans of live modules: their tensors against the planner's own, what a few layers say of many against the whole."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from labsupport.errors import ConfigError, LabError
from labsupport.measure import small_copy
from labsupport.measure.agreement import small_shapes
from labsupport.measure.plan_model import activations_of, plan_config, plan_model
from labsupport.measure.small_copy import stacks_of
from labsupport.memory.planner import choices_config, described_settings, plan
from labsupport.models import build_model, checkpoint_activations
from labsupport.shapes import Adapter, config_of

SHAPES = small_shapes()
SAMPLES, TOKENS = 2, 64


def text():
    tokens = torch.arange(SAMPLES * TOKENS).reshape(SAMPLES, TOKENS) % 256
    return {"input_ids": tokens, "labels": tokens.clone()}


def settings_of(stage=2, precision="bf16"):
    config = choices_config(stage, precision, micro_batch_size=SAMPLES, reduce_bucket_size=100_000)
    return config, described_settings(config, 2)


def text_config(stage):
    return settings_of(stage)[0]


@pytest.fixture
def few_layers(monkeypatch):
    """Even these small models are measured on copies."""
    monkeypatch.setattr(small_copy, "MEASURED_WHOLE", 0)


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_live_model_is_planned_as_its_shape_is(stage, checkpointing):
    shape = SHAPES["llama"]._replace(adapter=Adapter(4, ("q_proj", "v_proj")))
    model = build_model(shape)
    if checkpointing:
        checkpoint_activations(model)
    config, _ = settings_of(stage)
    live = plan_model(model, config, text(), world_size=2, accelerator="cpu")
    known = plan(
        shape,
        config,
        world_size=2,
        sequence_length=TOKENS,
        activation_checkpointing=checkpointing,
        accelerator="cpu",
    )
    assert [live.held(moment) for moment in ("after initialisation", "after backward", "at rest")] == [
        known.held(moment) for moment in ("after initialisation", "after backward", "at rest")
    ]
    assert live.collectives == known.collectives and live.trained_parameters == known.trained_parameters
    assert live.peak_bytes == pytest.approx(known.peak_bytes, rel=0.06)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi3", "mixtral"])
def test_a_few_layers_say_what_many_keep(name, few_layers, monkeypatch):
    model, (_, settings) = build_model(SHAPES[name]._replace(layers=8)), settings_of()
    scaled, layers = activations_of(model, text(), settings)
    peaks = [plan_model(model, text_config(stage), text(), world_size=2).peak_bytes for stage in (0, 3)]
    monkeypatch.setattr(small_copy, "MEASURED_WHOLE", 10**9)
    whole, none = activations_of(model, text(), settings)
    assert (layers, none) == (2, 0)
    for moment in ("kept", "forward", "loss", "backward"):
        assert getattr(scaled, moment) == pytest.approx(getattr(whole, moment), rel=0.03), moment
    expected = [plan_model(model, text_config(stage), text(), world_size=2).peak_bytes for stage in (0, 3)]
    assert peaks == pytest.approx(expected, rel=0.03)


def test_two_stacks_are_scaled_each_by_itself(few_layers, monkeypatch):
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "vocab_size": 256}
    model = T5ForConditionalGeneration(
        T5Config(num_layers=6, num_decoder_layers=10, use_cache=False, decoder_start_token_id=0, **sizes)
    )
    assert stacks_of(model) == {"encoder.block": 6, "decoder.block": 10}
    _, settings = settings_of()
    batch = text()
    scaled, _ = activations_of(model, batch, settings)
    monkeypatch.setattr(small_copy, "MEASURED_WHOLE", 10**9)
    whole, _ = activations_of(model, batch, settings)
    assert scaled.kept == pytest.approx(whole.kept, rel=0.02)
    assert scaled.backward == pytest.approx(whole.backward, rel=0.05)


def test_a_model_without_data_is_measured_and_stays_as_it_was(few_layers):
    with torch.device("meta"):
        model = build_model(SHAPES["llama"]._replace(layers=6))
    config, settings = settings_of()
    on_meta, _ = activations_of(model, text(), settings)
    with_data, _ = activations_of(build_model(SHAPES["llama"]._replace(layers=6)), text(), settings)
    assert on_meta == with_data
    assert len(model.model.layers) == 6 and all(parameter.is_meta for parameter in model.parameters())


class Perceptron(nn.Module):
    """A module with nothing of transformers: 3 layers and a head, of which the planner knows no more than tensors."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, rows):
        return self.layers(rows)


def test_a_plain_module_keeps_the_inputs_of_its_weights():
    config, settings = settings_of(precision="fp32")
    batch = (torch.randn(256, 32), torch.zeros(256, dtype=torch.int64))
    activations, _ = activations_of(Perceptron(), batch, settings, nn.functional.cross_entropy)
    # The batch, two ReLUs' outputs, which are also the inputs of what follows, and the softmax; the labels are int64.
    assert activations.kept == pytest.approx(256 * (4 * (32 + 64 + 64 + 4) + 8), rel=0.01)
    planned = plan_model(Perceptron(), config, batch, loss_fn=nn.functional.cross_entropy, world_size=2)
    assert planned.parameters == sum(parameter.numel() for parameter in Perceptron().parameters())


def test_stage_3_keeps_the_inputs_of_frozen_weights_too():
    model, batch = Perceptron(), (torch.randn(256, 32), torch.zeros(256, dtype=torch.int64))
    for parameter in model.layers[2:].parameters():
        parameter.requires_grad_(False)
    kept = {}
    for stage in (2, 3):
        _, settings = settings_of(stage, "fp32")
        kept[stage] = activations_of(model, batch, settings, nn.functional.cross_entropy)[0].kept
    assert kept[3] - kept[2] == 0  # a ReLU keeps its own output
    model.layers[3] = nn.Identity()
    for stage in (2, 3):
        _, settings = settings_of(stage, "fp32")
        kept[stage] = activations_of(model, batch, settings, nn.functional.cross_entropy)[0].kept
    assert kept[3] - kept[2] == 256 * 64 * 4
    assert nn.functional.linear.__module__ != "deepspeed.runtime.zero.linear"


def test_what_cannot_be_planned_is_one_sentence():
    frozen = Perceptron().requires_grad_(False)
    config, _ = settings_of()
    for model, batch, words in (
        (frozen, None, "All parameters are frozen"),
        (nn.ReLU(), None, "ReLU has no parameters"),
        (Perceptron(), "a text", "A batch is of type str"),
        (Perceptron(), (torch.ones(2, 32),), "where a scalar loss is due"),
    ):
        with pytest.raises(LabError, match=words):
            plan_model(model, config, batch)


def written(folder, **entry):
    (folder / "config.json").write_text(json.dumps(entry))
    return folder


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_config_is_planned_from_short_samples_of_few_layers_as_it_is_counted(tmp_path, few_layers, checkpointing):
    shape = SHAPES["llama"]._replace(layers=12, vocabulary=2000, longest_sequence=4096)
    config, _ = settings_of(stage=2)
    given = {"sequence_length": 2048, "activation_checkpointing": checkpointing, "world_size": 4}
    measured = plan_config(written(tmp_path, **config_of(shape)), config, **given)
    counted = plan(shape, config, **given)
    assert measured.held("at rest") == counted.held("at rest")
    assert measured.peak_bytes == pytest.approx(counted.peak_bytes, rel=0.03)
    assert "2 layers and 128 tokens" in measured.settings.not_described[-1]


def test_an_architecture_that_nobody_counted_is_planned_as_the_whole_model_is_measured(tmp_path, monkeypatch):
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "num_hidden_layers": 8}
    folder = written(tmp_path, model_type="gpt_neox", vocab_size=256, max_position_embeddings=512, **sizes)
    config, _ = settings_of(stage=2)
    monkeypatch.setattr(small_copy, "MEASURED_WHOLE", 0)
    scaled = plan_config(folder, config, sequence_length=512, world_size=2, accelerator="cpu")
    monkeypatch.setattr(small_copy, "MEASURED_WHOLE", 10**9)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    model.config.use_cache = False  # with a cache a fused query, key and value is kept in other pieces
    tokens = torch.arange(SAMPLES * 512).reshape(SAMPLES, 512) % 256
    whole = plan_model(model, config, {"input_ids": tokens, "labels": tokens}, world_size=2, accelerator="cpu")
    assert scaled.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.05)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"model_type": "no_such"}, "has the model_type 'no_such', which this transformers does not build"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "code of a repository is never run here"),
        ({"model_type": "vit"}, "describes no language model"),
        ({}, "has the model_type None"),
        ({"model_type": "llama", "hidden_size": 0}, "describes no language model"),
    ],
)
def test_a_config_that_no_language_model_comes_of_is_one_sentence(tmp_path, entry, words):
    with pytest.raises(ConfigError, match=words) as raised:
        plan_config(written(tmp_path, **entry), sequence_length=64)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
