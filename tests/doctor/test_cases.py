"""Every kind of config that once was read wrong, each with its right value."""

import json

import pytest

from labsupport.config import config_precision, create_deepspeed_config, offload_devices, read_config, validate_config
from labsupport.doctor.diagnosis import diagnose
from labsupport.doctor.findings import NOTE
from labsupport.errors import ConfigError
from labsupport.memory.planner import plan
from labsupport.settings import read_settings

M = {"train_micro_batch_size_per_gpu": 1}
Z = M | {"bf16": {"enabled": True}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}


def zero(**settings):
    return Z | {"zero_optimization": settings}


def codes(config, severity=None, **about):
    return {finding.code for finding in diagnose(config, **about) if severity in (None, finding.severity)}


def test_an_old_spelling_is_in_force():
    config = zero(stage=2, cpu_offload=True)
    assert offload_devices(config) == ("cpu", "none") and read_settings(config, 2).offload_optimizer == "cpu"
    held = plan("1.3b", config, world_size=8)
    assert held.place_bytes("at rest", "GPU") < plan("1.3b", zero(stage=2), world_size=8).place_bytes("at rest", "GPU")
    assert "offload-at-stage-0" in codes(zero(stage=0, cpu_offload=True), "silent")


@pytest.mark.parametrize("name", ["adamw", "ADAM", "AdamW"])
def test_an_optimizers_name_has_any_letters(name):
    config = M | {"optimizer": {"type": name, "params": None}}
    assert read_settings(config).states == 2 and plan("tiny", config).held("at rest")


# {config: (code, severity)}; a severity of None: nothing worse than a note is found.
KINDS = {
    "removed optimizer": (M | {"optimizer": {"type": "OneBitAdam", "params": {}}}, "removed-optimizer", "error"),
    "torch's compile": (M | {"compile": {"backend": "inductor", "disable": False}}, "unknown-key-in-block", "error"),
    "MiCS": (zero(stage=3, mics_shard_size=8), "removed-zero-key", "error"),
    "LoCo": (zero(stage=3, zeropp_loco_param={}), "removed-zero-key", "error"),
    "a comment": (Z | {"_comment": "for eight cards"}, None, None),
    "checkpoint": (Z | {"checkpoint": {"tag_validation_enabled": False, "save_optimizer_states": False}},
                   "ignored-key-in-block", "silent"),
    "auto in a block": (zero(stage=2, reduce_bucket_size="auto"), "auto-in-block", "silent"),
    "auto at the top": ({"train_batch_size": "auto"}, "auto-at-top-level", "error"),
    "ZenFlow's own auto": (zero(stage=2, offload_optimizer={"device": "cpu"}, zenflow={
        "select_strategy": "auto", "select_interval": "auto", "update_interval": "auto"}), None, None),
    "the pipeline's own auto": (Z | {"pipeline": {"stages": "auto"}}, None, None),
    "max_grad_norm": (M | {"optimizer": {"type": "AdamW", "params": {"max_grad_norm": 1.0}}}, "max-grad-norm", "error"),
    "data_types null": (M | {"data_types": None}, "not-a-block", "error"),
    "data_types text": (M | {"data_types": "fp32"}, "not-a-block", "error"),
    "optimizer null": (M | {"optimizer": None}, "not-a-block", "error"),
    "params null": (M | {"optimizer": {"type": "AdamW", "params": None}}, None, None),
    "float32": (zero(stage=2) | {"data_types": {"grad_accum_dtype": "float32"}}, None, None),
    "bfloat16": (zero(stage=2) | {"data_types": {"grad_accum_dtype": "bfloat16"}}, None, None),
    "a text for a switch": (M | {"bf16": {"enabled": "false"}}, "read-as", "note"),
    "no stage": (zero(overlap_comm=True), "zero-without-stage", "silent"),
    "scheduler cosine": (Z | {"scheduler": {"type": "cosine", "params": {}}}, "unknown-scheduler", "error"),
    "no total steps": (Z | {"scheduler": {"type": "WarmupDecayLR", "params": {}}}, "scheduler-parameter-missing",
                       "error"),
    "total steps": (Z | {"scheduler": {"type": "WarmupLR", "params": {"total_num_steps": 9}}}, "scheduler-parameter",
                    "error"),
    "clipping text": (Z | {"gradient_clipping": "1.0"}, "clipping-type", "error"),
    "clipping null": (Z | {"gradient_clipping": None}, "clipping-type", "error"),
    "loss scale": (M | {"fp16": {"loss_scale": "dynamic"}}, "loss-scale", "error"),
    "ratio at stage 2": (zero(stage=2, offload_optimizer={"device": "cpu", "ratio": 0.5}), "partial-offload", "error"),
    "sum at stage 3": (zero(stage=3) | {"gradient_allreduce_op": "sum"}, "summed-gradients", "error"),
    "float16 messages": (Z | {"communication_data_type": "float16"}, "no-such-value", "error"),
    "typo in a block": (zero(stage=2, overlap_com=True), "unknown-key-in-block", "error"),
    "stage 2.0": (zero(stage=2.0), None, None),
    "stage text": (zero(stage="2"), "read-as", "note"),
    "micro 2.0": ({"train_micro_batch_size_per_gpu": 2.0}, None, None),
    "bf16 null": (M | {"bf16": None}, None, None),
    "zero true": (M | {"zero_optimization": True}, "old-zero-switch", "note"),
    "parameters": (M | {"optimizer": {"type": "AdamW", "parameters": {"lr": 1}}}, "ignored-key-in-block", "silent"),
    "a fraction": (zero(stage=3, stage3_prefetch_bucket_size=15099494.4), "wrong-type", "error"),
    "no bucket": (zero(stage=2, reduce_bucket_size=0), "out-of-range", "error"),
    "cuda_visible_devices": (Z | {"cuda_visible_devices": "0"}, "unknown-key", "silent"),
    "comms_config": (Z | {"comms_config": {"enabled": True}}, "unknown-key", "silent"),
    "memory_efficient_linear": (Z | {"memory_efficient_linear": False}, "misplaced-key", "silent"),
    "offload_param at stage 2": (zero(stage=2, offload_param={"device": "cpu"}),
                                 "offloaded-parameters-below-3", "silent"),
    "fp32 sums at stage 0": (Z | {"data_types": {"grad_accum_dtype": "fp32"}}, "accumulation-at-stage-0", "error"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_finding(kind):
    config, code, severity = KINDS[kind]
    if severity in (None, NOTE):
        assert codes(config) - codes(config, NOTE) == set(), "nothing worse than a note"
        assert code is None or code in codes(config, NOTE)
        read_settings(config, 2)
        validate_config(config)
        return
    assert code in codes(config, severity)
    with pytest.raises(ConfigError):
        validate_config(config)
    if severity == "silent":
        assert read_settings(config, 2), "DeepSpeed trains it, and so do we"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}}, "hpZ (zero_hpz_partition_size 8)"),
        ({"tensor_parallel": {"autotp_size": 4}}, "tensor parallelism (autotp_size 4)"),
        ({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, "torch_autocast"),
        ({"zero_optimization": {"stage": 2, "zenflow": {}, "offload_optimizer": {"device": "cpu"}}},
         "ZenFlow (zenflow)"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}},
         "partial offload (ratio 0.5)"),
        ({"sequence_parallel_size": 2}, "sequence parallelism (sequence_parallel_size 2)"),
    ],
)  # fmt: skip
def test_what_the_planner_cannot_describe_is_named(change, words):
    assert read_settings(Z | change, 8).not_described == (words,)
    assert read_settings(Z, 8).not_described == ()


def test_a_text_is_no_precision():
    assert config_precision(M | {"bf16": {"enabled": "false"}}) == "fp32"
    assert read_settings(M | {"bf16": {"enabled": "false"}}).precision == "fp32"
    assert read_settings(zero(stage=2) | {"data_types": {"grad_accum_dtype": "float32"}}).accumulation_dtype == "fp32"


def test_the_way_out_of_a_batch_is_one():
    (first, *_) = diagnose({"train_batch_size": 4, "gradient_accumulation_steps": 1}, world_size=8)
    assert first.code == "batch-too-small"
    (first, *_) = diagnose({"train_batch_size": 12, "gradient_accumulation_steps": 1}, world_size=8)
    assert "set train_batch_size to 8, or give train_micro_batch_size_per_gpu" in first.fix
    for config in ({"train_batch_size": 8, "gradient_accumulation_steps": 1}, M | {"gradient_accumulation_steps": 1}):
        assert not codes(config, "error", world_size=8)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text("\ufeff" + json.dumps(Z), encoding="utf-8")
    assert read_config(path) == Z


def test_only_our_builders_refuse_what_is_silent():
    with pytest.raises(ConfigError, match="needs stage 3"):
        create_deepspeed_config(stage=2, offload_param=True)
    assert validate_config(zero(stage=2, offload_param={"device": "cpu"}), silent=False)


def test_nothing_is_said_of_what_our_builders_build():
    for stage in range(4):
        for precision in ("bf16", "fp16", "fp32"):
            config = create_deepspeed_config(
                stage,
                precision=precision,
                train_batch_size=8,
                world_size=2,
                scheduler="WarmupDecayLR",
                total_steps=9,
                warmup_steps=2,
                offload_optimizer=stage > 0,
                offload_param=stage == 3,
            )
            assert codes(config, world_size=2) - codes(config, NOTE, world_size=2) == set()
