"""NCCL's cost model: hop by hop by hand, the fastest of its ways, and links that others measured."""

import math

import pytest

from labsupport.errors import ConfigError
from labsupport.machine.cards import MEASURED_LINKS
from labsupport.step_time import nccl, published
from labsupport.step_time.machines import cluster

H100 = cluster("H100", "NDR")


@pytest.mark.parametrize("ranks", [2, 8])
def test_a_ring_in_a_node_is_a_start_and_its_hops(ranks):
    simple = H100._replace(low_latency_protocols=False)
    for collective, rounds in (("all_gather", 1), ("reduce_scatter", 1), ("all_reduce", 2)):
        hops = rounds * (ranks - 1)
        by_hand = 8.4e-6 + hops * 3.4e-6 + hops / ranks * 1e9 / (0.8 * 450e9)
        assert nccl.choice(collective, 1e9, ranks, simple) == (pytest.approx(by_hand), "ring", "Simple")


def test_a_ring_and_a_tree_over_nodes_are_counted_by_hand():
    simple, size, rate = H100._replace(low_latency_protocols=False), 4e9, 0.8 * 400e9
    gather = 8.4e-6 + (56 * 6.0 + 7 * 14.0) * 1e-6 + 63 / 64 * size / rate  # 7 of 63 hops leave the node
    assert nccl.choice("all_gather", size, 64, simple).seconds == pytest.approx(gather)
    tree = 8.4e-6 + 2 * (7 * 4.0 + 3 * 14.0) * 1e-6 + 2 * 1e6 / (0.92 * rate)
    assert nccl.choice("all_reduce", 1e6, 64, simple) == (pytest.approx(tree), "tree", "Simple")


def test_nccl_takes_the_fastest_way_and_a_tree_for_reductions_of_small_messages_over_nodes_alone():
    assert nccl.choice("all_reduce", 1e5, 256, H100).algorithm == "tree"
    assert nccl.choice("all_reduce", 1e10, 16, H100).algorithm == "ring"
    assert nccl.choice("all_reduce", 1e5, 8, H100).algorithm == "ring"
    assert all(nccl.choice("all_gather", size, 512, H100).algorithm == "ring" for size in (1e3, 1e6, 1e9))
    assert [nccl.choice("all_gather", size, 64, H100).protocol for size in (1e3, 1e8, 1e11)] == [
        "LL",
        "LL128",
        "Simple",
    ]


def test_a_rings_start_grows_with_the_ranks_and_a_trees_with_their_logarithm():
    def start(collective, ranks):
        return nccl.choice(collective, 0, ranks, H100).seconds

    gather = [start("all_gather", 2**power) for power in range(5, 10)]
    reduce = [start("all_reduce", 2**power) for power in range(5, 10)]
    assert all(1.7 < after / before < 2.1 for before, after in zip(gather, gather[1:], strict=False))
    steps = [after - before for before, after in zip(reduce, reduce[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * len(steps)), "each doubling of the nodes adds the same"


def test_the_networks_latency_is_paid_on_each_hop_between_nodes_and_twice_without_ll():
    late = H100._replace(network_latency_seconds=1e-3)
    for machine, times in ((late, 1), (late._replace(low_latency_protocols=False), 2)):
        quick = machine._replace(network_latency_seconds=0.0)
        more = nccl.choice("all_gather", 0, 64, machine).seconds - nccl.choice("all_gather", 0, 64, quick).seconds
        assert more == pytest.approx(7 * times * 1e-3)
    assert nccl.choice("all_gather", 0, 8, late) == nccl.choice("all_gather", 0, 8, H100)


def test_the_rate_between_nodes_is_what_others_measured():
    seen = MEASURED_LINKS
    machine = cluster(seen.card, seen.link)
    assert nccl.bus_rate(machine, 128) == pytest.approx(seen.outer_all_reduce_bytes_per_second, rel=0.01)
    assert nccl.bus_rate(machine, 8) < seen.inner_all_reduce_bytes_per_second, "which has the switch add: left out"
    assert seen.host_bytes_per_second < machine.host_bytes_per_second / 4, "a slot of fewer lanes than the card's"


def test_published_all_reduces_over_nodes_are_met_from_a_quarter_of_a_mebibyte_on():
    rows = [(size, gpus, modelled / seconds - 1) for size, gpus, seconds, modelled in published.all_reduce_rows()]
    large = {gpus: [error for size, ranks, error in rows if ranks == gpus and size >= 2**18] for gpus in (8, 32)}
    assert max(map(abs, large[32])) < 0.3 and max(map(abs, large[8])) < 0.35
    smallest = min(error for size, ranks, error in rows if ranks == 32)
    assert smallest < -0.8, "the two smallest took longer than messages several times their size: no start says that"


def test_cards_on_pcie_have_slower_hops_and_no_ll128():
    slot = cluster("L40S", "NDR")
    assert nccl.choice("all_gather", 0, 8, slot).seconds == pytest.approx((6.6 + 7 * 1.0) * 1e-6)
    sizes = [10**power for power in range(3, 12)]
    assert {nccl.choice(name, size, 64, slot).protocol for size in sizes for name in ("all_gather", "all_reduce")} == {
        "LL", "Simple"
    }  # fmt: skip


def test_one_rank_sends_nothing_and_an_unknown_collective_is_refused():
    assert nccl.choice("all_gather", 1e9, 1, H100).seconds == 0
    assert math.isfinite(nccl.choice("all_reduce", 0, 2, cluster("T4", "10 GbE")).seconds)
    with pytest.raises(ConfigError, match="no collective 'gossip' here"):
        nccl.choice("gossip", 1, 8, H100)
