"""What DeepSpeed's own reader makes of a config: the facts that the pages and labs state, without any engine."""

import operator

import pytest

LEAST = {"train_micro_batch_size_per_gpu": 1}
leaves_the_file_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def read(monkeypatch):
    """DeepSpeed's own reader, told how many ranks there are."""
    import deepspeed.comm
    from deepspeed.runtime.config import DeepSpeedConfig

    def reader(config, ranks=2):
        monkeypatch.setattr(deepspeed.comm, "get_rank", lambda: 0)
        monkeypatch.setattr(deepspeed.comm, "get_world_size", lambda *_: ranks)
        return DeepSpeedConfig(config)

    return reader


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("given", ["batch micro", "batch steps", "micro steps", "batch", "micro"])
def test_what_is_left_out_of_the_batch_follows_from_the_rest(given, ranks, read):
    values = {"batch": 64, "micro": 8, "steps": 2}
    keys = {
        "batch": "train_batch_size",
        "micro": "train_micro_batch_size_per_gpu",
        "steps": "gradient_accumulation_steps",
    }
    config = read({keys[name]: values[name] for name in given.split()}, ranks)
    found = {name: getattr(config, key) for name, key in keys.items()}
    assert found["batch"] == found["micro"] * found["steps"] * ranks
    assert all(found[name] == values[name] for name in given.split())
    # Accumulation is 1 only where one of the other two is missing as well.
    assert found["steps"] == {"batch micro": 8 // ranks, "batch": 1, "micro": 1}.get(given, 2)


IN_BLOCKS = {  # a block that says "auto": (attribute, what is in force)
    "bf16": ({"bf16": {"enabled": "auto"}}, "bfloat16_config.enabled", False),
    "fp16": ({"fp16": {"enabled": "auto"}}, "float16_config.enabled", False),
    "stage": ({"zero_optimization": {"stage": "auto"}}, "zero_optimization_stage", 0),
    "bucket": ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "zero_config.reduce_bucket_size", 500_000_000),
    "prefetch": (
        {"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": "auto"}},
        "zero_config.prefetch_bucket_size",
        50_000_000,
    ),
}
AS_TEXT = {
    "clipping": ({"gradient_clipping": "auto"}, "gradient_clipping"),
    "learning rate": ({"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}}, "optimizer_params.lr"),
}


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_auto_in_a_block_is_dropped_without_a_word(name, read):
    config, attribute, in_force = IN_BLOCKS[name]
    assert operator.attrgetter(attribute)(read(LEAST | config)) == in_force


def test_auto_elsewhere_stays_a_text_and_in_the_batch_it_fails(read):
    assert read(LEAST | AS_TEXT["clipping"][0]).gradient_clipping == "auto"
    assert read(LEAST | AS_TEXT["learning rate"][0]).optimizer_params == {"lr": "auto"}
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        with pytest.raises(TypeError, match="not supported between instances of 'str' and 'int'"):
            read(LEAST | {key: "auto"})


HJSON = {
    "a comment": '{\n// why\n"train_micro_batch_size_per_gpu": 3 # here\n}',
    "single quotes": "{'train_micro_batch_size_per_gpu': 3}",
    "a comma after the last item": '{"train_micro_batch_size_per_gpu": 3,}',
    "no comma between two lines": '{"gradient_clipping": 0.5\n"train_micro_batch_size_per_gpu": 3}',
}


@leaves_the_file_open
@pytest.mark.parametrize("name", HJSON)
def test_deepspeed_reads_hjson_and_so_does_the_course(name, read, tmp_path):
    from labsupport.config import read_config

    path = tmp_path / "ds_config.json"
    path.write_text(HJSON[name])
    assert read(str(path)).train_micro_batch_size_per_gpu == 3
    assert read_config(path)["train_micro_batch_size_per_gpu"] == 3


@leaves_the_file_open
def test_a_key_that_stands_twice_is_refused(read, tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text('{"train_micro_batch_size_per_gpu": 3, "train_micro_batch_size_per_gpu": 4}')
    with pytest.raises(ValueError, match="Duplicate keys"):
        read(str(path))


CHECKED = "bf16 fp16 zero_optimization comms_logger tensorboard wandb csv_monitor compile tensor_parallel hybrid_engine"
UNCHECKED = (
    "data_types checkpoint activation_checkpointing aio flops_profiler timers torch_autocast optimizer scheduler "
    "autotuning data_efficiency"
)


@pytest.mark.parametrize("block", CHECKED.split())
def test_a_wrong_name_is_refused_in(block, read):
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        read(LEAST | {block: {"no_such_key": 1}})


@pytest.mark.parametrize("block", UNCHECKED.split())
def test_a_wrong_name_is_ignored_in(block, read):
    read(LEAST | {block: {"no_such_key": 1}})


def test_the_page_names_the_blocks_that_are_checked_and_those_that_are_not(root):
    page = (root / "book" / "configuration.md").read_text()
    section = page[page.index("## What DeepSpeed silently ignores") : page.index("## What DeepSpeed no longer accepts")]
    for block in (*CHECKED.split(), *UNCHECKED.split()):
        assert f"`{block}`" in section, block


def test_a_mistyped_type_is_no_error_of_the_reader(read):
    config = read(LEAST | {"optimizer": {"type": "AdamWW"}, "scheduler": {"type": "WarmupL"}})
    assert (config.optimizer_name, config.scheduler_name) == ("AdamWW", "WarmupL")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_offload_block_without_a_device_offloads_nothing(stage, read):
    zero = read(
        LEAST | {"zero_optimization": {"stage": stage, "offload_optimizer": {}, "offload_param": {}}}
    ).zero_config
    assert zero.offload_optimizer.device == zero.offload_param.device == "none"


def test_ratio_is_read_at_stage_3_alone():
    import inspect

    from deepspeed.runtime.zero import stage3, stage_1_and_2

    assert "offload_ratio" in inspect.signature(stage3.DeepSpeedZeroOptimizer_Stage3.__init__).parameters
    assert "offload_ratio" not in inspect.signature(stage_1_and_2.DeepSpeedZeroOptimizer.__init__).parameters
