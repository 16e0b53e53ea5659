"""GPU runs that others published: the planner was not fitted to them, and is held to what they state."""

import pytest

from labsupport.errors import ConfigError
from labsupport.memory import plan, published
from labsupport.memory.liger import chunk_of_tokens
from labsupport.shapes import shape_of

ROWS = [
    pytest.param(row, id=f"{name}: {row.name}, {row.moment}")
    for name, table in published.tables().items()
    for row in table.rows
]


@pytest.mark.parametrize("row", ROWS)
def test_allocated_bytes_are_within_5_percent_and_no_reserved_ones_are_exceeded(row):
    if row.counts == published.ALLOCATED:
        assert abs(row.error) < 0.05
    else:
        assert 0.6 < row.planned_gibibytes / row.gibibytes < 1


def test_every_table_names_its_source():
    assert all("https://" in table.source for table in published.tables().values())


def test_the_longest_sequences_are_within_15_percent_of_what_was_reserved():
    rows = [row for row in published.tables()["bekman"].rows if "131,072" in row.name or "262,144" in row.name]
    assert len(rows) == 2 and all(row.planned_gibibytes > 0.85 * row.gibibytes for row in rows)


def test_ligers_loss_makes_the_logits_of_about_as_many_bytes_as_a_hidden_state():
    shape = shape_of("llama-3.1-8b")  # 128,256 words are 32 times the hidden size
    assert [chunk_of_tokens(shape, tokens) for tokens in (8192, 8193, 32, 1)] == [256, 512, 1, 1]


def test_liger_holds_less_and_is_planned_for_no_other_model():
    arguments = {"stage": 3, "world_size": 8, "sequence_length": 8192}
    for model in ("llama-3.1-8b", "qwen3-8b"):
        assert plan(model, **arguments, liger=True).peak_bytes < plan(model, **arguments).peak_bytes
    for model, sequence in (("gemma-2-9b", 8192), ("300m", 512)):
        with pytest.raises(ConfigError, match="leave out liger"):
            plan(model, stage=3, sequence_length=sequence, liger=True)
