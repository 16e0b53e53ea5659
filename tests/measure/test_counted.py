"""What code without an engine sends and holds, against messages and allocations that are known."""

import communication_work


def test_messages_and_bytes_are_those_of_the_code(two_ranks):
    for rank, counted, wire, left in two_ranks.run(communication_work.count_by_hand):
        messages, peak, kept = counted["in_parts"]
        assert messages == [("reduce_scatter", 24_000)], rank
        assert (peak, kept) == (36_000, 12_000)
        assert wire == 12_000, "half of the row, on two ranks"
        assert counted["in_lists"][0] == [("reduce_scatter", 4000), ("all_gather", 2000)]
        assert counted["in_lists"][2] == 0
        names = ["reduce", "broadcast", "all_reduce", "all_to_all"]
        assert counted["one_by_one"][0] == [(name, 200) for name in names]
        assert counted["through_autograd"][0] == [("all_gather", 4000)]
        assert counted["through_autograd"][2] == 4 * (1000 + 2000 + 1), (
            "autograd keeps both factors for the backward pass"
        )
        assert left == 0
