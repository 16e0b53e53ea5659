"""The tables on book/zero.md are what labsupport.memory computes."""

import re

from conftest import ROOT

from labsupport.memory.paper import model_state_bytes, paper_elements

PAGE = (ROOT / "book" / "zero.md").read_text()
PSI = 7_500_000_000


def test_memory_table_is_the_formula():
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 2, 4, 8, 64, 1024]
    for ranks, *shown in rows:
        assert shown == [f"{model_state_bytes(PSI, stage, int(ranks)) / 1e9:.3f}" for stage in range(4)]


def test_shares_on_four_ranks_are_the_formula():
    shares = [100 * model_state_bytes(PSI, stage, 4) / model_state_bytes(PSI, 0, 4) for stage in (1, 2, 3)]
    assert shares == [43.75, 34.375, 25.0]
    assert "43.75" in PAGE and "34.375" in PAGE


def test_factors_are_the_formula():
    for stage, ranks, shown in ((1, 2, "1.6"), (2, 2, "1.78"), (1, 64, "3.82"), (2, 64, "7.21")):
        factor = model_state_bytes(PSI, 0, ranks) / model_state_bytes(PSI, stage, ranks)
        assert f"{factor:.{len(shown.partition('.')[2])}f}" == shown
        assert f"= {shown}$" in PAGE


def test_communication_with_four_micro_batches_is_the_formula():
    assert [paper_elements(1, stage, 4) for stage in (1, 2, 3)] == [2, 5, 12]
    assert "stage 1 sends $2\\Psi$, stage 2 sends $5\\Psi$ and stage 3 sends $12\\Psi$" in PAGE
