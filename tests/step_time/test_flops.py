"""The count of floating-point operations, beside PyTorch's own counter, and the measured rate."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from labsupport.errors import ConfigError
from labsupport.models import PRESETS, build_model, checkpoint_activations
from labsupport.shapes import Shape
from labsupport.step_time.compute import RECOMPUTED_SHARE
from labsupport.step_time.flops import flops_per_token, main, measured_matmul_flops, utilisation


@pytest.mark.parametrize(
    "shape", [Shape("gpt2", 3, 256, 4, 64, 1024, 256), Shape("llama", 3, 256, 4, 64, 688, 256)], ids=["gpt2", "llama"]
)
def test_the_count_is_that_of_pytorchs_counter(shape):
    model = build_model(shape)
    model.set_attn_implementation("eager")  # whose products the counter sees one by one
    tokens = torch.randint(0, 256, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens).loss.backward()
    # Positions, biases and norms are parameters without a matrix product, and the first layer needs no gradient.
    assert flops_per_token(shape, 64) * tokens.numel() == pytest.approx(counter.get_total_flops(), rel=0.03)


def counted(shape, checkpointed):
    """The operations of one forward and backward pass, by PyTorch's counter."""
    model = build_model(shape)
    model.set_attn_implementation("eager")
    if checkpointed:
        checkpoint_activations(model)
    tokens = torch.randint(0, 256, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model.train()(input_ids=tokens, labels=tokens).loss.backward()
    return counter.get_total_flops()


def test_a_checkpoint_recomputes_all_of_a_gpts_block_but_its_last_matrix():
    shape = Shape("gpt2", 3, 256, 4, 64, 1024, 256)
    again = counted(shape, True) - counted(shape, False)
    attention, matrices = 4 * 64 * 256 * 3 * 128, 2 * 12 * 256**2 * 3 * 128  # of 128 tokens in three layers
    assert again == pytest.approx(attention + RECOMPUTED_SHARE * matrices, rel=0.001)


def test_utilisation_is_the_share_of_the_devices_operations():
    per_token = flops_per_token("1.3b", 2048)
    assert per_token == 6 * PRESETS["1.3b"].parameters + 12 * 24 * 2048 * 2048
    assert utilisation("1.3b", 2048, 1e4, 2 * per_token * 1e4) == pytest.approx(0.5)


def test_a_measured_rate_is_a_rate():
    small, large = (measured_matmul_flops(torch.float32, "cpu", size, seconds=0.05) for size in (64, 256))
    assert 1e6 < small < 1e14 and 1e6 < large < 1e14


def test_mistakes_are_one_sentence(capsys):
    with pytest.raises(ConfigError, match="There is no model '1.3bn'"):
        flops_per_token("1.3bn", 2048)
    assert main(["--model", "1.3bn"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main([]) == 0
    assert "GFLOP a token" in capsys.readouterr().out


def test_of_experts_those_count_that_a_token_goes_through():
    """Two of Mixtral's eight: 12.9 of 46.7 billion parameters."""
    assert flops_per_token("mixtral-8x7b", 2048) / 6 == pytest.approx(12.9e9, rel=0.06)
