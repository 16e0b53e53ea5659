"""What book/fsdp.md says of ZeRO and FSDP2, run on two ranks; and every row of its tables says whether it was run."""

import re

import fact_work
import fsdp_work
import pytest
import torch

pytestmark = pytest.mark.slow
ELEMENTS = 2 * fsdp_work.SIZE**2


@pytest.fixture
def on_ranks(two_ranks):
    def run(function, *given):
        return two_ranks.run(function, *given)[0]

    return run


# The first cell of each row that was run: the test here, or elsewhere as file::test.
RUN = {
    "stage 0": "test_a_mesh_of_two_dimensions_replicates",
    "stage 2": "test_when_parameters_are_whole",
    "stage 2, less alike": "test_when_parameters_are_whole",
    "stage 3": "test_when_parameters_are_whole",
    "`offload_param` and `offload_optimizer`, device `cpu`": "test_offload_has_no_switch_for_one_of_them",
    "`offload_optimizer` alone, at stage 3 also part of it with `ratio`":
        "../facts/test_config_facts.py::test_ratio_is_read_at_stage_3_alone",
    "`bf16`, `fp16`": "test_masters_are_made_from_the_rounded_weights",
    "`communication_data_type`": "test_the_dtype_of_the_reduction",
    "`gradient_accumulation_steps`": "test_accumulation_with_and_without_a_reduction",
    "`no_sync` at stages 0 and 1": "test_accumulation_with_and_without_a_reduction",
    "`gradient_clipping`": "test_the_norm_is_that_of_all_ranks",
    "`optimizer` and `scheduler` in the config": "test_fully_shard_replaces_the_parameters",
    "keep the model in fp32 and pass `MixedPrecisionPolicy(param_dtype=torch.bfloat16)`":
        "test_masters_are_made_from_the_rounded_weights",
    "load the model in bf16 and pass no policy":
        "test_book_examples.py::test_zero3_and_fsdp2_give_the_same_losses",
    "save": "test_files_of_a_checkpoint",
    "another number of ranks": "test_a_checkpoint_of_two_ranks_loads_without_any",
    "one file of weights": "test_a_checkpoint_of_two_ranks_loads_without_any",
}  # fmt: skip


def test_every_row_says_whether_it_was_run(root):
    rows = [line.strip("| ").split(" | ") for line in (root / "book" / "fsdp.md").read_text().splitlines()]
    seen = {row[0]: row[-1] for row in rows if row[-1] in ("run", "read")}
    assert {cell for cell, how in seen.items() if how == "run"} == set(RUN)
    tables = re.findall(r"Seen \|\n\|[-|]+\n((?:\|.*\n)+)", (root / "book" / "fsdp.md").read_text())
    assert sum(table.count("\n") for table in tables) == len(seen), "a row says neither run nor read"


def test_the_tests_of_the_rows_exist(root):
    for target in RUN.values():
        file, _, name = f"test_fsdp.py::{target}".rpartition("::") if "::" not in target else target.rpartition("::")
        assert f"def {name}" in (root / "tests" / "book" / file).read_text(), target


def test_a_mesh_of_two_dimensions_replicates(two_ranks):
    first, second = two_ranks.run(fsdp_work.replicated)
    assert first["placements"] == ["R", "S(0)"]
    assert first["elements"] == (ELEMENTS,) * 4, "weights, gradients and states, whole on each rank"
    assert torch.equal(first["weights"], second["weights"])


def test_when_parameters_are_whole(on_ranks):
    layer, found = fsdp_work.SIZE**2, on_ranks(fsdp_work.placement)
    assert found["True"] == (layer // 2, layer // 2)
    assert found["False"] == (layer, layer // 2)
    assert found["whole between steps"] == (layer, layer)


def test_accumulation_with_and_without_a_reduction(on_ranks):
    found = on_ranks(fsdp_work.accumulation)
    assert (found["sync"]["held"], found["no sync"]["held"]) == (ELEMENTS // 2, ELEMENTS)
    torch.testing.assert_close(found["sync"]["sum"], found["no sync"]["sum"])


def test_the_norm_is_that_of_all_ranks(on_ranks):
    kind, norm, whole = on_ranks(fsdp_work.clipping)
    assert kind == "DTensor" and norm == pytest.approx(whole)


def test_fully_shard_replaces_the_parameters(on_ranks):
    assert on_ranks(fsdp_work.objects_are_replaced)


def test_masters_are_made_from_the_rounded_weights(on_ranks):
    """(equal to the model's own weights, equal to those rounded to bf16)"""
    own, rounded = (True, False), (False, True)
    found = on_ranks(fsdp_work.masters)
    assert found == {"stage 1": rounded, "stage 2": rounded, "stage 3": rounded, "FSDP2": own}


def test_the_dtype_of_the_reduction(on_ranks):
    found = on_ranks(fsdp_work.reduction_dtypes)
    assert found["FSDP2"] == ["torch.bfloat16"] and found["FSDP2, fp32"] == ["torch.float32"]
    assert (found["stage 1"], found["stage 1, fp32"]) == (2, 4), "bytes an element"


def test_offload_has_no_switch_for_one_of_them(on_ranks):
    places, options = on_ranks(fsdp_work.offloaded)
    assert places == ["cpu"] * 3 and options == ["pin_memory"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_of_two_ranks_loads_without_any(on_ranks, tmp_path):
    import torch.distributed.checkpoint as dcp

    whole = on_ranks(fsdp_work.checkpoint, str(tmp_path / "saved"))
    assert {kind for kind, _ in whole.values()} == {"Tensor"}, "plain tensors"
    loaded = {name: torch.zeros_like(value) for name, (_, value) in whole.items()}
    dcp.load(loaded, checkpoint_id=tmp_path / "saved", no_dist=True)
    assert all(torch.equal(loaded[name], value) for name, (_, value) in whole.items())


def test_files_of_a_checkpoint(on_ranks, tmp_path):
    for stage, files in on_ranks(fsdp_work.deepspeed_files, str(tmp_path)).items():
        models = [file for file in files if file.endswith("model_states.pt")]
        assert (len(models), len(files) - len(models)) == {0: (1, 0), 3: (2, 2)}.get(stage, (1, 2))


def test_a_sharded_model_goes_through_compile(on_ranks):
    plain, through = on_ranks(fsdp_work.compiled)
    assert through == pytest.approx(plain)


def test_a_bf16_model_without_a_block_has_no_fp32_weights_at_stage_0(on_ranks):
    assert on_ranks(fact_work.no_precision_block, (0,))[0][2] == "torch.bfloat16"


def test_accelerate_casts_before_it_shards():
    import inspect

    from accelerate.utils import fsdp_utils

    source = inspect.getsource(fsdp_utils.fsdp2_prepare_model)
    cast = source.index("param.data = param.data.to(torch.float32)")
    assert 'accelerator.mixed_precision != "no"' in source[:cast] and "logger.info(" in source[cast : cast + 300]
