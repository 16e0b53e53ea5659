"""The code on book/fsdp.md runs, and says what the page says: ZeRO-3 and FSDP2 train alike."""

import sys

import book_work
import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "book" / "examples"


@pytest.fixture
def both(two_ranks):
    return two_ranks.run(book_work.train_with_both, str(EXAMPLES))


def test_zero3_and_fsdp2_give_the_same_losses(both):
    for result in both:
        assert result["fsdp2"] == pytest.approx(result["zero3"], abs=1e-4)
        assert result["zero3"][-1] < result["zero3"][0]
        assert result["kept with a policy"] == "{torch.float32}"
        assert result["kept from a bf16 model"] == "{torch.bfloat16}"


def test_naive_shard_equals_the_whole_layer(two_ranks):
    assert max(two_ranks.run(book_work.naive_and_whole, str(EXAMPLES))) < 1e-4


def test_page_shows_the_files():
    page = (EXAMPLES.parent / "fsdp.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"examples/{path.name}" in page


def test_names_on_the_page_exist():
    import inspect

    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard  # noqa: F401

    assert {"mesh", "reshard_after_forward", "mp_policy", "offload_policy"} <= set(
        inspect.signature(fully_shard).parameters
    )
    assert sys.modules["torch.distributed.fsdp"] is not None
