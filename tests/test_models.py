"""The presets: as large as their names say, the same on every rank."""

import pytest
import torch

from labsupport.errors import ConfigError
from labsupport.models import PRESETS, build_model, count_parameters
from labsupport.shapes import Shape


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "tiny"])
def test_a_preset_is_as_large_as_its_name(preset):
    with torch.device("meta"):
        parameters = count_parameters(build_model(preset))
    unit = {"m": 1e6, "b": 1e9}[preset[-1]]
    assert parameters == pytest.approx(float(preset[:-1]) * unit, rel=0.2)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_tensors_that_the_planner_counts_are_the_models(preset):
    with torch.device("meta"):
        assert [p.numel() for p in build_model(preset).parameters()] == PRESETS[preset].tensor_sizes


def test_one_seed_one_model_and_a_new_model_knows_nothing():
    first, second, other = build_model("tiny", 3), build_model("tiny", 3), build_model("tiny", 4)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    tokens = torch.randint(256, (4, 64))
    assert float(first(input_ids=tokens, labels=tokens).loss.detach()) == pytest.approx(5.55, abs=0.1), "log(256)"


@pytest.mark.parametrize("preset", ["tiny", Shape("llama", 2, 64, 2, 64, 128, 256)], ids=["gpt2", "llama"])
def test_attention_is_causal_without_a_mask_so_that_a_gpu_takes_its_fused_kernels(monkeypatch, preset):
    calls, attend = [], torch.nn.functional.scaled_dot_product_attention

    def spy(*tensors, attn_mask=None, is_causal=False, **named):
        calls.append((attn_mask, is_causal))
        return attend(*tensors, attn_mask=attn_mask, is_causal=is_causal, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    tokens = torch.randint(256, (2, 32))
    build_model(preset)(input_ids=tokens, labels=tokens)
    assert calls == [(None, True)] * 2


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="'900b'"):
        build_model("900b")
    with pytest.raises(ConfigError, match="did you mean '300m'"):
        build_model("30m")
