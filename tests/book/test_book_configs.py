"""The configs on the page book/configuration.md are what the builder makes, and what DeepSpeed itself accepts."""

import json
import operator

import pytest
from conftest import ROOT

from labsupport import create_deepspeed_config
from labsupport.config import read_config

BOOK = ROOT / "book"
FOLDER = BOOK / "configs"


def configs():
    """The builder's call for each file; the page shows the same calls."""
    return {
        "zero2.json": create_deepspeed_config(
            stage=2,
            precision="bf16",
            train_batch_size=64,
            gradient_accumulation_steps=4,
            world_size=2,
            scheduler="WarmupCosineLR",
            warmup_steps=100,
            total_steps=1000,
        ),
        "zero3_offload.json": create_deepspeed_config(
            stage=3,
            precision="bf16",
            train_batch_size=16,
            world_size=2,
            offload_optimizer="cpu",
            offload_param="cpu",
        ),
    }


def as_text(config):
    return json.dumps(config, indent=2) + "\n"


@pytest.fixture
def deepspeed_config(monkeypatch):
    """DeepSpeed's own reader of a config, told that there are two ranks."""
    import deepspeed.comm
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.setattr(deepspeed.comm, "get_rank", lambda: 0)
    monkeypatch.setattr(deepspeed.comm, "get_world_size", lambda *_: 2)
    return DeepSpeedConfig


@pytest.mark.parametrize("name", configs())
def test_file_is_what_the_builder_makes(name):
    assert (FOLDER / name).read_text() == as_text(configs()[name]), f"write book/configs/{name} anew from configs()"


@pytest.mark.parametrize("name", configs())
def test_file_passes_the_course_s_own_reader(name):
    assert read_config(FOLDER / name) == configs()[name]


@pytest.mark.parametrize("name", configs())
def test_page_shows_the_file(name):
    assert f"configs/{name}" in (BOOK / "configuration.md").read_text()


def test_deepspeed_reads_zero2_as_the_page_says(deepspeed_config):
    read = deepspeed_config(json.loads((FOLDER / "zero2.json").read_text()))
    assert (read.train_batch_size, read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (64, 8, 4)
    assert read.zero_optimization_stage == 2 and read.zero_config.overlap_comm is False
    assert read.bfloat16_config.enabled and read.bfloat16_config.check_grad_overflow
    assert read.gradient_clipping == 1.0 and read.scheduler_name == "WarmupCosineLR"


def test_deepspeed_reads_zero3_offload_as_the_page_says(deepspeed_config):
    read = deepspeed_config(json.loads((FOLDER / "zero3_offload.json").read_text()))
    assert read.zero_optimization_stage == 3 and read.zero_config.overlap_comm is True
    assert read.zero_config.offload_optimizer.device == "cpu" and read.zero_config.offload_param.device == "cpu"
    assert read.zero_config.offload_optimizer.ratio == 1.0
    assert read.zero_config.param_persistence_threshold == 10_000


# The column "When left out" of the page's tables: (attribute of DeepSpeed's reader, its value, the page's words).
DEFAULTS = {
    "gradient_accumulation_steps": (
        "gradient_accumulation_steps",
        1,
        "inferred from the other two and the ranks; 1 where one of them is missing too",
    ),
    "gradient_clipping": ("gradient_clipping", 1.0, "1.0"),
    "steps_per_print": ("steps_per_print", None, "nothing is printed"),
    "managed_gradient_accumulation": ("managed_gradient_accumulation", True, "`true`"),
    "zero_allow_untested_optimizer": ("zero_allow_untested_optimizer", False, "`false`"),
    "zero_force_ds_cpu_optimizer": ("zero_force_ds_cpu_optimizer", True, "`true`"),
    "stage": ("zero_config.stage", 0, "0"),
    "reduce_bucket_size": ("zero_config.reduce_bucket_size", 500_000_000, "500 000 000"),
    "allgather_bucket_size": ("zero_config.allgather_bucket_size", 500_000_000, "500 000 000"),
    "overlap_comm": ("zero_config.overlap_comm", False, "`false`; at stage 3 `true`"),
    "contiguous_gradients": ("zero_config.contiguous_gradients", True, "`true`"),
    "reduce_scatter": ("zero_config.reduce_scatter", True, "`true`"),
    "use_multi_rank_bucket_allreduce": ("zero_config.use_multi_rank_bucket_allreduce", True, "`true`"),
    "sub_group_size": ("zero_config.sub_group_size", 1_000_000_000, "1 000 000 000"),
    "stage3_prefetch_bucket_size": ("zero_config.prefetch_bucket_size", 50_000_000, "50 000 000"),
    "stage3_param_persistence_threshold": ("zero_config.param_persistence_threshold", 100_000, "100 000"),
    "stage3_max_live_parameters": ("zero_config.max_live_parameters", 1_000_000_000, "1 000 000 000"),
    "stage3_max_reuse_distance": ("zero_config.max_reuse_distance", 1_000_000_000, "1 000 000 000"),
    "stage3_gather_16bit_weights_on_model_save": (
        "zero_config.gather_16bit_weights_on_model_save",
        False,
        "`false`",
    ),
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_default_stands_on_the_page(key, deepspeed_config):
    attribute, expected, words = DEFAULTS[key]
    least = deepspeed_config({"train_micro_batch_size_per_gpu": 1})
    assert operator.attrgetter(attribute)(least) == expected
    rows = [line.split("|") for line in (BOOK / "configuration.md").read_text().splitlines()]
    shown = [row[2].strip() for row in rows if len(row) > 3 and row[1].strip() == f"`{key}`"]
    assert shown == [words]


# What the page lists as silently ignored: (config, what DeepSpeed then has in force).
IGNORED = {
    "zero_optimisation": ({"zero_optimisation": {"stage": 2}}, "zero_optimization_stage", 0),
    "grad_acum_dtype": ({"data_types": {"grad_acum_dtype": "fp32"}}, "grad_accum_dtype", None),
    "lod_universal": ({"checkpoint": {"lod_universal": True}}, "load_universal_checkpoint", False),
    "partition_activatons": (
        {"activation_checkpointing": {"partition_activatons": True}},
        "activation_checkpointing_config.partition_activations",
        False,
    ),
    "auto": ({"gradient_clipping": "auto"}, "gradient_clipping", "auto"),
}


@pytest.mark.parametrize("word", IGNORED)
def test_deepspeed_ignores_what_the_page_says_it_ignores(word, deepspeed_config):
    block, attribute, in_force = IGNORED[word]
    read = deepspeed_config({"train_micro_batch_size_per_gpu": 1, **block})
    assert operator.attrgetter(attribute)(read) == in_force
    assert f'"{word}"' in (BOOK / "configuration.md").read_text()
