"""The builders and the validator, against the installed DeepSpeed's own parser."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labsupport.config import (
    config_precision,
    create_deepspeed_config,
    create_offload_config,
    merge_configs,
    offload_devices,
    read_config,
    validate_config,
)
from labsupport.errors import ConfigError, LabError
from labsupport.settings import read_settings


@pytest.fixture
def parse(monkeypatch):
    """DeepSpeed's own parser, told how many ranks there are."""
    import deepspeed.runtime.config as parser

    class Ranks:
        def __init__(self, world_size):
            self.world_size = world_size

        def get_rank(self):
            return 0

        def get_world_size(self):
            return self.world_size

    def parse_on(config, world_size=1):
        monkeypatch.setattr(parser, "dist", Ranks(world_size))
        return parser.DeepSpeedConfig(config)

    return parse_on


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_deepspeed_reads_what_was_asked_for(parse, stage, precision):
    config = create_deepspeed_config(
        stage,
        precision=precision,
        train_batch_size=24,
        gradient_accumulation_steps=3,
        world_size=4,
        lr=0.5,
        gradient_clipping=0.25,
        scheduler="WarmupDecayLR",
        total_steps=10,
        bucket_size=2_000_000,
        offload_optimizer=stage > 0,
        offload_param=stage == 3,
    )
    assert json.loads(json.dumps(config)) == config
    read = parse(config, 4)
    assert read.zero_optimization_stage == stage
    assert (read.float16_config.enabled, read.bfloat16_config.enabled) == (precision == "fp16", precision == "bf16")
    assert (read.train_batch_size, read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (24, 2, 3)
    assert read.gradient_clipping == 0.25
    assert read.optimizer_params["lr"] == 0.5
    assert read.scheduler_name == "WarmupDecayLR"
    if stage:
        assert read.zero_config.reduce_bucket_size == 2_000_000
        assert read.zero_config.offload_optimizer.device == "cpu"
    if stage == 3:
        assert read.zero_config.offload_param.device == "cpu"
    if precision == "fp16":
        assert read.float16_config.loss_scale == 0, "dynamic loss scaling"


def test_defaults_are_the_documented_ones():
    config = create_deepspeed_config()
    assert config["zero_optimization"]["stage"] == 2
    assert config_precision(config) == "fp16"
    assert config["train_batch_size"] == 32
    assert config["gradient_accumulation_steps"] == 1
    assert offload_devices(config) == ("none", "none")
    assert config_precision(create_deepspeed_config(fp16=False)) == "fp32"
    assert config_precision(create_deepspeed_config(fp16=True, precision="bf16")) == "bf16"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_is_none_is_left_to_deepspeed(parse, stage):
    config = create_deepspeed_config(
        stage, train_batch_size=None, micro_batch_size=3, gradient_accumulation_steps=2, bucket_size=None, world_size=5
    )
    assert "train_batch_size" not in config and config["zero_optimization"] == {"stage": stage}
    assert parse(config, 5).train_batch_size == 30 and parse(config, 7).train_batch_size == 42
    with pytest.raises(ConfigError, match="names no batch size"):
        create_deepspeed_config(stage, train_batch_size=None)


SIZE = st.none() | st.integers(0, 200)
BUILDABLE = st.fixed_dictionaries(
    {"stage": st.integers(0, 3), "precision": st.sampled_from(["fp16", "bf16", "fp32"])},
    optional={
        "gradient_clipping": st.floats(0, 10),
        "lr": st.floats(1e-6, 1),
        "bucket_size": st.integers(1, 10**9),
        "scheduler": st.sampled_from(["WarmupLR", "WarmupDecayLR"]),
        "grad_accum_dtype": st.sampled_from(["fp32", "bf16"]),
        "offload_optimizer": st.booleans(),
        "offload_param": st.booleans(),
    },
)
# parse is the same function for every example, and what it patches is put back after the last one
many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(batch=SIZE, micro=SIZE, steps=SIZE, world_size=st.integers(1, 16))
@example(batch=8, micro=2, steps=None, world_size=4)  # the accumulation steps are inferred
@example(batch=7, micro=2, steps=None, world_size=1)  # and do not divide
def test_batch_triple_is_judged_and_filled_in_as_deepspeed_does(parse, batch, micro, steps, world_size):
    triple = {"train_batch_size": batch, "train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": steps}
    config = {key: value for key, value in triple.items() if value is not None}
    try:
        read = parse(dict(config), world_size)
    except (AssertionError, ZeroDivisionError):  # the second for 0 accumulation steps, which it divides by first
        with pytest.raises(ConfigError):
            read_settings(config, world_size)
        return
    ours = read_settings(config, world_size)
    assert (ours.micro_batch_size, ours.accumulation_steps) == (
        read.train_micro_batch_size_per_gpu,
        read.gradient_accumulation_steps,
    )


@many
@given(options=BUILDABLE, micro=st.integers(1, 64), steps=st.integers(1, 16), world_size=st.integers(1, 16))
def test_what_is_built_is_read_by_deepspeed_as_it_was_meant(parse, options, micro, steps, world_size):
    batch = {"train_batch_size": micro * steps * world_size, "gradient_accumulation_steps": steps}
    try:
        config = create_deepspeed_config(**options, **batch, world_size=world_size, total_steps=10)
    except ConfigError:
        return  # what DeepSpeed would ignore is not built
    read, ours = parse(json.loads(json.dumps(config)), world_size), read_settings(config, world_size)
    assert (read.zero_optimization_stage, read.train_micro_batch_size_per_gpu) == (options["stage"], micro)
    assert (ours.stage, ours.micro_batch_size, ours.accumulation_steps) == (options["stage"], micro, steps)
    enabled = {"fp16": read.float16_config.enabled, "bf16": read.bfloat16_config.enabled}
    assert enabled == {name: name == options["precision"] for name in enabled}
    assert ours.gradient_clipping == read.gradient_clipping
    if options["stage"]:
        assert ours.reduce_bucket_size == read.zero_config.reduce_bucket_size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stage": 4}, ["stage is 4", "0, 1, 2 or 3"]),
        ({"stage": -1}, ["stage is -1"]),
        ({"stage": "2"}, ["stage is '2'"]),
        ({"stage": True}, ["stage is True"]),
        ({"precision": "int8"}, ["'int8'", "bf16"]),
        ({"train_batch_size": 7, "world_size": 2}, ["train_batch_size 7", "world_size 2"]),
        ({"train_batch_size": 8, "micro_batch_size": 2, "world_size": 2}, ["8 is not", "= 4"]),
        ({"train_batch_size": 0}, ["train_batch_size is 0"]),
        ({"train_batch_size": 8.0}, ["train_batch_size is 8.0"]),
        ({"gradient_accumulation_steps": 0}, ["gradient_accumulation_steps is 0"]),
        ({"world_size": 0}, ["world_size is 0"]),
        ({"stage": 2, "offload_param": True}, ["offload_param needs stage 3", "stage 2"]),
        ({"stage": 0, "offload_optimizer": True}, ["stage 0", "silently ignored"]),
        ({"stage": 2, "offload_optimizer": "nvme"}, ["'nvme' needs stage 3"]),
        ({"stage": 3, "offload_optimizer": "gpu"}, ["'gpu'", "'cpu' or 'nvme'"]),
        ({"scheduler": "cosine"}, ["'cosine'", "WarmupLR"]),
        ({"scheduler": "WarmupDecayLR"}, ["total_steps"]),
        ({"bucket_size": 0}, ["bucket_size is 0"]),
        ({"grad_accum_dtype": "fp8"}, ["'fp8'"]),
        ({"gradient_clipping": -1}, ["gradient_clipping is -1"]),
        ({"lr": "fast"}, ["lr is 'fast'"]),
    ],
    ids=str,
)
def test_bad_options_get_one_sentence(options, words):
    with pytest.raises(ConfigError) as error:
        create_deepspeed_config(**options)
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text and text.endswith((".", "?"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"train_batch_size": 4, "zero_optimisation": {"stage": 2}}, ["'zero_optimisation'", "'zero_optimization'"]),
        ({"train_batch_size": 4, "amp": {"enabled": False}}, ["'amp'", "removed"]),
        ({"train_batch_size": "auto"}, ['"auto"', "Hugging Face"]),
        ({"train_batch_size": 4, "zero_optimization": {"stage": 3, "aio": {}}}, ["'aio'", "top level"]),
        (
            {"train_batch_size": 4, "zero_optimization": {"stage": 3, "offload_param": False}},
            ["offload_param is False"],
        ),
        ({"train_batch_size": 4, "zero_optimization": 2}, ["zero_optimization is 2"]),
        ({"train_batch_size": 4, "zero_optimization": {"data_types": {}}}, ["top level"]),
        ({"train_batch_size": 4, "fp16": {"enabled": True}, "bf16": {"enabled": True}}, ["both enabled"]),
        ({"train_batch_size": 4, "fp16": True}, ["fp16 is True"]),
        (
            {"train_batch_size": 4, "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
            ["nvme_path"],
        ),
        ({}, ["no batch size"]),
        ([], ["a dict, not list"]),
    ],
    ids=str,
)
def test_configs_that_deepspeed_refuses_late_or_ignores_are_refused(config, words):
    with pytest.raises(ConfigError) as error:
        validate_config(config)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_offload_config_is_a_fragment_of_a_whole_config(parse, tmp_path):
    assert create_offload_config() == {
        "zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": True}}
    }
    fragment = create_offload_config(True, True, "nvme", nvme_path=tmp_path)
    assert fragment["zero_optimization"]["offload_param"]["nvme_path"] == str(tmp_path)
    assert "aio" in fragment and "aio" not in fragment["zero_optimization"]
    base = create_deepspeed_config(3, precision="fp32")
    whole = merge_configs(base, fragment)
    assert "offload_param" not in base["zero_optimization"], "merging changes neither argument"
    assert offload_devices(whole) == ("nvme", "nvme")
    read = parse(whole)
    assert str(read.zero_config.offload_optimizer.nvme_path) == str(tmp_path)
    assert read.aio_config["queue_depth"] == fragment["aio"]["queue_depth"]
    assert create_offload_config(False, False) == {"zero_optimization": {}}
    assert create_offload_config(offload_device="nvme")["zero_optimization"]["offload_optimizer"]["nvme_path"]
    with pytest.raises(ConfigError, match="'gpu'"):
        create_offload_config(offload_device="gpu")


def test_a_config_file_is_read_or_refused_with_line_and_column(tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps(create_deepspeed_config()))
    assert read_config(path) == create_deepspeed_config()
    path.write_text('{\n  "train_batch_size": 4\n  "fp16": {}\n}')
    assert read_config(path) == {"train_batch_size": 4, "fp16": {}}, "DeepSpeed reads Hjson"
    path.write_text('{\n  "train_batch_size": 4,\n  ]')
    with pytest.raises(ConfigError, match="line 3, column 3"):
        read_config(path)
    path.write_text('{"train_batch_size": 4, "train_batch_size": 8}')
    with pytest.raises(ConfigError, match="stands twice"):
        read_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_config(path)
    for wrong in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(ConfigError, match="Cannot read"):
            read_config(wrong)


def test_a_lab_error_shows_in_a_notebook_as_one_line():
    error = ConfigError("one sentence")
    assert error._render_traceback_() == ["ConfigError: one sentence"]
    assert isinstance(error, LabError) and isinstance(error, ValueError)


def test_an_optimizer_that_zero_was_not_tested_with_is_allowed_where_the_builder_is_asked_for_it():
    for stage, name, allowed in ((0, "SGD", False), (1, "SGD", True), (3, "SGD", True), (2, "AdamW", False)):
        config = create_deepspeed_config(stage, precision="fp32", optimizer=name)
        assert ("zero_allow_untested_optimizer" in config) == allowed, (stage, name)
