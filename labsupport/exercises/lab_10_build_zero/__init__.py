"""The exercises of lab 10: ZeRO by hand, one small step after the other, each held against DeepSpeed."""

from labsupport.exercises.lab_10_build_zero import average, cut, sharded_optimizer

EXERCISES = (
    average.EXERCISE,
    cut.EXERCISE,
    sharded_optimizer.EXERCISE,
)
