"""Right answers to the exercises of lab 08, each written differently from the lab's own solution."""

RIGHT = {
    "08-hostfile": (
        'hostfile_text = "# the GPU nodes\\n\\nworker-a   slots=4\\nworker-b\\tslots=4\\n"',
        'hostfile_text = "\\n".join(f"{name} slots=4" for name in ("worker-a", "worker-b"))',
        '''hostfile_text = """
    worker-a slots=4  # rank 0 lives here
    worker-b slots=4
"""''',
    ),
    "08-place": (
        """def place(rank, slots):
    places = [(node, count) for node, count in enumerate(slots) for _ in range(count)]
    node, count = places[rank]
    return node, rank % count""",
        """import bisect
import itertools


def place(rank, slots):
    node = bisect.bisect_right(list(itertools.accumulate(slots)), rank)
    return [node, rank % slots[node]]""",
        """def place(rank, slots, node=0, before=0):
    if rank < before + slots[node]:
        return node, rank - rank // slots[node] * slots[node]
    return place(rank, slots, node + 1, before + slots[node])""",
    ),
    "08-choose": (
        """choice = dict.fromkeys(["small workstation", "slow link", "parameters stay"], "ZeRO")
choice |= {"many cards": "DDP", "own tensors": "FSDP2", "every week another size": "FSDP2"}""",
        """choice = {
    "parameters stay": "ZeRO", "every week another size": "FSDP2", "slow link": "ZeRO",
    "small workstation": "ZeRO", "own tensors": "FSDP2", "many cards": "DDP",
}""",
        """situations = "many cards,own tensors,small workstation,slow link,every week another size,parameters stay"
choice = dict(zip(situations.split(","), "DDP FSDP2 ZeRO ZeRO FSDP2 ZeRO".split()))""",
    ),
}
