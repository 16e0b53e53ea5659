"""The configs on the page book/configuration.md are what the builder makes, and what DeepSpeed itself accepts."""

import json
from pathlib import Path

import pytest

from labsupport import create_deepspeed_config
from labsupport.config import read_config

BOOK = Path(__file__).parent.parent / "book"
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
def deepspeed_config():
    """DeepSpeed's own reader of a config, told that there are two ranks."""
    from deepspeed.runtime.config import DeepSpeedConfig

    class TwoRanks:
        def get_data_parallel_world_size(self):
            return 2

    return lambda path: DeepSpeedConfig(str(path), mpu=TwoRanks())


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
    read = deepspeed_config(FOLDER / "zero2.json")
    assert (read.train_batch_size, read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (64, 8, 4)
    assert read.zero_optimization_stage == 2 and read.zero_config.overlap_comm is False
    assert read.bfloat16_config.enabled and read.bfloat16_config.check_grad_overflow
    assert read.gradient_clipping == 1.0 and read.scheduler_name == "WarmupCosineLR"


def test_deepspeed_reads_zero3_offload_as_the_page_says(deepspeed_config):
    read = deepspeed_config(FOLDER / "zero3_offload.json")
    assert read.zero_optimization_stage == 3 and read.zero_config.overlap_comm is True
    assert read.zero_config.offload_optimizer.device == "cpu" and read.zero_config.offload_param.device == "cpu"
    assert read.zero_config.offload_optimizer.ratio == 1.0
    assert read.zero_config.param_persistence_threshold == 10_000


# The column "when left out" of the page's tables: DeepSpeed's own defaults, as they come out of its reader.
DEFAULTS = {
    "train_batch_size": ("top", "train_batch_size", 2),  # inferred: micro-batch 1 x accumulation 1 x 2 ranks
    "gradient_accumulation_steps": ("top", "gradient_accumulation_steps", 1),
    "gradient_clipping": ("top", "gradient_clipping", 1.0),
    "steps_per_print": ("top", "steps_per_print", None),
    "managed_gradient_accumulation": ("top", "managed_gradient_accumulation", True),
    "zero_allow_untested_optimizer": ("top", "zero_allow_untested_optimizer", False),
    "zero_force_ds_cpu_optimizer": ("top", "zero_force_ds_cpu_optimizer", True),
    "stage": ("zero", "stage", 0),
    "reduce_bucket_size": ("zero", "reduce_bucket_size", 500_000_000),
    "allgather_bucket_size": ("zero", "allgather_bucket_size", 500_000_000),
    "overlap_comm": ("zero", "overlap_comm", False),
    "contiguous_gradients": ("zero", "contiguous_gradients", True),
    "reduce_scatter": ("zero", "reduce_scatter", True),
    "use_multi_rank_bucket_allreduce": ("zero", "use_multi_rank_bucket_allreduce", True),
    "round_robin_gradients": ("zero", "round_robin_gradients", False),
    "sub_group_size": ("zero", "sub_group_size", 1_000_000_000),
    "stage3_prefetch_bucket_size": ("zero", "prefetch_bucket_size", 50_000_000),
    "stage3_param_persistence_threshold": ("zero", "param_persistence_threshold", 100_000),
    "stage3_max_live_parameters": ("zero", "max_live_parameters", 1_000_000_000),
    "stage3_max_reuse_distance": ("zero", "max_reuse_distance", 1_000_000_000),
    "stage3_gather_16bit_weights_on_model_save": ("zero", "gather_16bit_weights_on_model_save", False),
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_default_stands_on_the_page(key, deepspeed_config, tmp_path):
    place, attribute, expected = DEFAULTS[key]
    path = tmp_path / "least.json"
    path.write_text('{"train_micro_batch_size_per_gpu": 1}')
    read = deepspeed_config(path)
    value = getattr(read if place == "top" else read.zero_config, attribute)
    assert value == expected
    page = (BOOK / "configuration.md").read_text()
    row = next((line for line in page.splitlines() if line.startswith(f"| `{key}`")), "")
    shown = {None: "none", True: "`true`", False: "`false`"}.get(expected, expected) if expected != 1 else expected
    if key != "train_batch_size":
        assert row.split("|")[2].strip().removesuffix(" at stages 0 to 2, `true` at 3").strip("`").replace(
            " ", ""
        ) == str(shown).strip("`").replace("_", ""), row
