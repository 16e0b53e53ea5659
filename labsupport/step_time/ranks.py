"""The step of DeepSpeed on this machine's own ranks, predicted from what was measured beside it. No torch.

    from labsupport.step_time.ranks import predicted_steps     # what benchmarks/step_time.py measures goes in

CPU ranks compute and send on the same cores: nothing is hidden, so the parts of a step add up.
"""

from labsupport.step_time.collectives import ring_seconds, traffic


def predicted_steps(model, world_size, seconds, alone, rates, *, element_bytes, bucket_elements):
    """Return {stage: {name: seconds}}: the messages of a step, the step predicted twice, and the step as measured.

    model: anything with `parameters` and `layers`. seconds: the medians on these ranks, {"compute", "adam", "stage 0"
    to "stage 3"}; alone: those on one rank. rates: {collective: (alpha_seconds, bytes_per_second)}. bucket_elements:
    of the gradients' buckets and of stage 3's prefetching.
    "from_pytorch" adds a plain loop, Adam and the messages; "from_one_rank" takes DeepSpeed's own step on one rank, as
    much slower as the plain loop becomes when the ranks share the cores, with Adam on this rank's part alone.
    """
    crowding, steps = seconds["compute"] / alone["compute"], {}
    for stage in range(4):
        sent = traffic(
            model,
            stage,
            element_bytes=element_bytes,
            bucket_elements=bucket_elements,
            prefetch_elements=bucket_elements,
        )
        messages, part = ring_seconds(sent, world_size, rates), 1 / world_size if stage else 1
        steps[stage] = {
            "communication": messages,
            "from_pytorch": seconds["compute"] + part * seconds["adam"] + messages,
            "from_one_rank": crowding * (alone[f"stage {stage}"] - (1 - part) * alone["adam"]) + messages,
            "measured": seconds[f"stage {stage}"],
        }
    return steps
