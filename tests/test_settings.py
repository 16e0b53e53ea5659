"""What a config means, against what the installed DeepSpeed makes of the same config."""

import pytest

from labsupport.errors import ConfigError
from labsupport.memory.planner import plan
from labsupport.models import shape_named
from labsupport.settings import Settings, read_settings

BASE = {"train_micro_batch_size_per_gpu": 4}


def test_defaults_are_those_of_the_installed_deepspeed():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    for stage in range(4):
        installed = DeepSpeedZeroConfig(stage=stage)
        settings = read_settings({**BASE, "zero_optimization": {"stage": stage}})
        assert {
            "reduce_bucket_size": settings.reduce_bucket_size,
            "allgather_bucket_size": settings.allgather_bucket_size,
            "overlap_comm": settings.overlap_comm,
            "use_multi_rank_bucket_allreduce": settings.multi_rank_allreduce,
            "reduce_scatter": settings.reduce_scatter,
            "sub_group_size": settings.sub_group_size,
            "prefetch_bucket_size": settings.prefetch_bucket_size,
            "param_persistence_threshold": settings.persistence_threshold,
            "max_live_parameters": settings.max_live_parameters,
            "max_reuse_distance": settings.max_reuse_distance,
        }.items() <= dict(installed).items()
    parameters, optimizer = DeepSpeedZeroOffloadParamConfig(), DeepSpeedZeroOffloadOptimizerConfig()
    defaults = Settings()
    assert (defaults.parameter_buffers, defaults.parameter_buffer_size) == (
        parameters.buffer_count,
        parameters.buffer_size,
    )
    assert (defaults.optimizer_buffers, defaults.pin_memory) == (optimizer.buffer_count, optimizer.pin_memory)


def test_the_clipping_that_deepspeed_adds_is_there():
    from deepspeed.runtime.constants import GRADIENT_CLIPPING_DEFAULT

    assert Settings().gradient_clipping == read_settings(BASE).gradient_clipping == GRADIENT_CLIPPING_DEFAULT


@pytest.mark.parametrize(
    ("config", "ranks", "expected"),
    [
        ({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4}, 2, (4, 4)),
        ({"train_batch_size": 32, "gradient_accumulation_steps": 2}, 4, (4, 2)),
        ({"train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 5}, 7, (3, 5)),
        ({"train_batch_size": 8}, 8, (1, 1)),
    ],
)
def test_the_batch_triple_is_completed(config, ranks, expected):
    settings = read_settings(config, ranks)
    assert (settings.micro_batch_size, settings.accumulation_steps) == expected


def test_every_optimizer_is_read_and_only_the_planner_refuses():
    for block, states in (
        ({"type": "AdamW"}, 2),
        ({"type": "SGD"}, 0),
        ({"type": "SGD", "params": {"momentum": 0.9}}, 1),
        ({"type": "RMSprop", "params": None}, None),
    ):
        config = {**BASE, "optimizer": block}
        settings = read_settings(config, 2)
        assert (settings.optimizer, settings.states) == (block["type"], states)
        if states is None:
            with pytest.raises(ConfigError, match=r"not know the optimizer 'RMSprop': it can describe SGD, Adam.*\.$"):
                plan("tiny", config, world_size=2)
        else:
            held = plan("tiny", config, world_size=2).held("at rest")["optimizer states"]
            assert held // (4 * shape_named("tiny").parameters) == states


def test_ranks_follow_from_a_whole_triple():
    config = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
    assert read_settings(config).world_size == 4


def test_precision_offload_and_low_precision_states_are_read():
    config = {
        **BASE,
        "bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "optimizer": {"type": "adam", "params": {"torch_adam": False}},
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": 5e7,
            "stage3_max_live_parameters": 0,
            "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme", "buffer_count": 6, "pin_memory": False},
            "offload_param": {"device": "cpu"},
        },
    }
    settings = read_settings(config, 2)
    assert settings._asdict() | {
        "precision": "bf16", "accumulation_dtype": "fp32", "master_bytes": 2, "state_bytes": 2, "torch_adam": False,
        "optimizer": "Adam",
        "offload_optimizer": "nvme", "offload_param": "cpu", "optimizer_buffers": 6, "pin_memory": False,
        "max_live_parameters": 0, "reduce_bucket_size": 50_000_000, "stage": 3,
    } == settings._asdict()  # fmt: skip
    assert isinstance(settings.reduce_bucket_size, int)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": -1}}, "reduce_bucket_size is -1"),
        ({"zero_optimization": {"stage": 3, "stage3_max_live_parameters": "many"}}, "max_live_parameters is 'many'"),
        ({"bf16": {"enabled": True, "bf16_optimizer_states": True}, "zero_optimization": {"stage": 2}}, "on alone"),
        ({"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, "stage is 0"),
        (
            {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}, "zero_optimization": {"stage": 2}},
            "need the optimizer on the CPU",
        ),
        (
            {"train_batch_size": 3, "train_micro_batch_size_per_gpu": None},
            "leaves train_micro_batch_size_per_gpu 0 on 8 ranks",
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_settings({**BASE, **change}, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [5e8, "500000000", " 5000 ", 5000, "5e8", 1.5, "many", 0, -1, True, [1]])
@pytest.mark.parametrize("key", ["reduce_bucket_size", "sub_group_size", "stage3_max_live_parameters"])
def test_a_number_of_elements_is_taken_as_deepspeed_takes_it(key, value):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3, key: value}}
    try:
        theirs = getattr(DeepSpeedZeroConfig(**config["zero_optimization"]), key.replace("stage3_", ""))
    except ValueError:
        with pytest.raises(ConfigError, match=key):
            read_settings(config, 1)
        return
    assert getattr(read_settings(config, 1), key.replace("stage3_", "")) == theirs
