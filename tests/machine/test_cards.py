"""The table of cards and networks: peaks of one direction and without sparsity, found by any spelling."""

import pytest

from labsupport.errors import ConfigError
from labsupport.machine.cards import CARDS, LINKS, MIB, PCIE_3, PCIE_4, PCIE_5, card, link


@pytest.mark.parametrize("spelling", ["A100-80GB", "a100-80gb", "NVIDIA A100 SXM4 80GB", "a100 80"])
def test_a_card_is_found_however_it_is_spelled(spelling):
    assert card(spelling) is CARDS["A100-80GB"]


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("a100", "A100-40GB"), ("H1000", "H100"), ("rtx 4080", "RTX 4090"), ("b20", "B200")]
)
def test_an_unknown_card_offers_the_nearest_name(wrong, nearest):
    with pytest.raises(ConfigError, match=f"no GPU '{wrong}' in the table: the nearest is '{nearest}'"):
        card(wrong)


@pytest.mark.parametrize("wrong", ["", None, 100])
def test_what_is_no_name_is_refused_in_one_sentence(wrong):
    with pytest.raises(ConfigError, match="give a name"):
        card(wrong)


def test_memory_is_what_the_driver_shows_not_what_the_name_says():
    assert card("H100").memory_bytes == 81559 * MIB
    assert 79 * 2**30 < card("H100").memory_bytes < 80 * 2**30, "80 GB is 80 GiB, less a reserve"
    assert card("H100").memory_bytes > 80e9


@pytest.mark.parametrize("name", list(CARDS))
def test_every_card_is_plausible_and_cited(name):
    gpu = card(name)
    assert 10e9 < gpu.memory_bytes < 250e9 and 50e12 < gpu.flops_per_second < 3e15
    assert gpu.memory_bytes_per_second > gpu.link_bytes_per_second >= gpu.host_bytes_per_second
    assert gpu.host_bytes_per_second in (PCIE_3, PCIE_4, PCIE_5)
    assert gpu.precision == ("fp16" if name.startswith(("T4", "V100")) else "bf16")
    assert "https://" in gpu.source or "not re-checked" in gpu.source


def test_pcie_doubles_with_every_generation():
    assert PCIE_5 == pytest.approx(2 * PCIE_4) == pytest.approx(4 * PCIE_3)
    assert pytest.approx(63.0e9, rel=0.001) == PCIE_5


def test_a_nodes_network_is_its_adapters_together():
    assert link("hdr").node_bytes_per_second == 200e9 and link("hdr").gpu_bytes_per_second == 25e9
    assert link("efa p5").node_bytes_per_second == link("ndr").node_bytes_per_second == 400e9
    assert all(each.source for each in LINKS.values())
    with pytest.raises(ConfigError, match="no network 'infiniband'"):
        link("infiniband")
