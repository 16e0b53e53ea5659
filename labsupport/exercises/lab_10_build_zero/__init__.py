"""The exercises of lab 10: ZeRO by hand, one small step after the other, each held against DeepSpeed."""

from labsupport.exercises.lab_10_build_zero import (
    average,
    break_even,
    buckets,
    clip,
    cut,
    masters,
    persistence,
    sharded_linear,
    sharded_optimizer,
    whole_states,
)

EXERCISES = (
    average.EXERCISE,
    cut.EXERCISE,
    sharded_optimizer.EXERCISE,
    clip.EXERCISE,
    buckets.EXERCISE,
    masters.EXERCISE,
    sharded_linear.EXERCISE,
    persistence.EXERCISE,
    whole_states.EXERCISE,
    break_even.EXERCISE,
)
