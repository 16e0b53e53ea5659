"""The exercises of lab 03 on accumulated and clipped gradients: when they are applied, added up, and cut."""

from labsupport.exercises.lab_03_training import (
    bf16_accumulation,
    clipping,
    four_patterns,
    train_epoch,
    train_step,
)

EXERCISES = (
    train_step.EXERCISE,
    train_epoch.EXERCISE,
    four_patterns.EXERCISE,
    bf16_accumulation.EXERCISE,
    clipping.EXERCISE,
)
