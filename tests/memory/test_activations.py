"""The count of activations, against what PyTorch's profiler sees of transformers' own models."""

import pytest
import torch

from labsupport.measure import timeline
from labsupport.memory.activations import activation_bytes
from labsupport.models import build_model
from labsupport.shapes import Adapter, Shape

SAMPLES, TOKENS = 2, 512
SHAPES = {
    "gpt2": Shape("gpt2", 2, 64, 2, TOKENS, 256, 8),
    "gpt2 with many words": Shape("gpt2", 2, 64, 2, TOKENS, 256, 640),
    "llama": Shape("llama", 3, 64, 2, TOKENS, 176, 8),
    "qwen 3 with grouped keys and wide heads": Shape("qwen3", 3, 64, 4, TOKENS, 176, 8, 2, 32),
}
LLAMA, GPT2 = SHAPES["llama"], SHAPES["gpt2"]
NOT_ALL_TRAINED = {
    "LoRA beside query and value": LLAMA._replace(adapter=Adapter(8, ("q_proj", "v_proj"))),
    "LoRA beside the MLP": LLAMA._replace(adapter=Adapter(4, ("up_proj", "down_proj"))),
    "LoRA beside all": SHAPES["qwen 3 with grouped keys and wide heads"]._replace(adapter=Adapter(4, ("all-linear",))),
    "LoRA in GPT-2": GPT2._replace(adapter=Adapter(8, ("c_attn",))),
    "the first layers frozen": LLAMA._replace(frozen=("embed_tokens.*", "layers.0.*", "layers.1.*")),
    "GPT-2's first layer frozen": GPT2._replace(frozen=("embed_tokens.*", "positions.*", "layers.0.*")),
    "norms alone": LLAMA._replace(frozen=("embed_tokens.*", "*_proj.*", "lm_head.*")),
    "GPT-2's norms alone": GPT2._replace(frozen=("embed_tokens.*", "positions.*", "*.c_*")),
    "a layer's attention frozen": LLAMA._replace(frozen=("embed_tokens.*", "*.self_attn.*", "*layernorm*")),
    "the output layer alone": LLAMA._replace(frozen=("embed_tokens.*", "layers.*", "norm.*")),
}


@pytest.fixture(autouse=True)
def no_workspace_of_onednn():
    """oneDNN's 16-bit matrix products take a workspace that depends on the processor: do without."""
    torch._C._set_mkldnn_enabled(False)  # the public torch.backends.mkldnn.flags warns about Intel GPUs
    yield
    torch._C._set_mkldnn_enabled(True)


def profiled(shape, dtype, attention, checkpointing):
    """(bytes after forward, most in forward, most in backward), of everything but weights and their gradients."""
    model = build_model(shape).to(dtype)
    model.set_attn_implementation(attention)
    if checkpointing:
        model.activation_checkpointing_enable()
    model.train()
    tokens = torch.zeros(SAMPLES, TOKENS, dtype=torch.int64)

    def step():
        timeline.mark("forward")
        loss = model(input_ids=tokens.clone(), labels=tokens.clone()).loss
        timeline.mark("backward")
        loss.backward()
        timeline.mark("step")
        model.zero_grad()

    with timeline.silent_stderr(), timeline.profiler() as profile:
        step()
        timeline.mark("begin")
        step()
    moments = timeline.timeline_of(profile, {}, "cpu")
    held = {phase: [sum(roles.values()) for name, roles in moments if name == phase] for phase in timeline.PHASES}
    return held["forward"][-1], max(held["forward"]), max(held["backward"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_count_is_what_the_profiler_sees(shape, dtype, checkpointing):
    shape, e = SHAPES[shape], torch.finfo(dtype).bits // 8
    kept, forward, backward = profiled(shape, dtype, "sdpa", checkpointing)
    counted = activation_bytes(shape, SAMPLES, TOKENS, e, "sdpa", checkpointing)
    assert counted.kept == pytest.approx(kept, rel=0.08 if checkpointing else 0.01)
    # Weights' gradients are in the measured peak; here they are small beside the activations.
    assert max(counted.forward, counted.loss, counted.backward) == pytest.approx(max(forward, backward), rel=0.05)


@pytest.mark.parametrize("shape", NOT_ALL_TRAINED)
@pytest.mark.parametrize(
    ("dtype", "checkpointing"), [(torch.bfloat16, False), (torch.float32, False), (torch.bfloat16, True)]
)
def test_what_is_frozen_keeps_less_as_the_profiler_sees(shape, dtype, checkpointing):
    shape, e = NOT_ALL_TRAINED[shape], torch.finfo(dtype).bits // 8
    kept, forward, backward = profiled(shape, dtype, "sdpa", checkpointing)
    counted = activation_bytes(shape, SAMPLES, TOKENS, e, "sdpa", checkpointing)
    token_numbers = 8 * SAMPLES * TOKENS  # a frozen embedding does not keep them; whoever holds the batch does
    assert counted.kept == pytest.approx(kept, rel=0.08 if checkpointing else 0.01, abs=token_numbers)
    assert max(counted.forward, counted.loss, counted.backward) == pytest.approx(max(forward, backward), rel=0.08)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_eager_attention_keeps_the_score_matrix(shape):
    shape = SHAPES[shape]
    kept, _, _ = profiled(shape, torch.bfloat16, "eager", False)
    eager, fused = (activation_bytes(shape, SAMPLES, TOKENS, 2, attention).kept for attention in ("eager", "sdpa"))
    assert eager == pytest.approx(kept, rel=0.01)
    scores = SAMPLES * shape.attention_heads * TOKENS**2 * shape.layers
    assert eager - fused == pytest.approx(scores * (6 if shape.architecture == "llama" else 2), rel=0.02)


def test_activations_grow_with_tokens_and_not_with_the_ranks():
    shape = SHAPES["gpt2"]
    one, two = (activation_bytes(shape, samples, TOKENS, 2).kept for samples in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.001)
