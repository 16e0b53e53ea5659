"""The exercises of lab 01: write a config, choose its batch sizes, read one, and mend one."""

from labsupport.exercises.lab_01_config import batch, broken, config, read

EXERCISES = (
    batch.EXERCISE,
    read.EXERCISE,
    config.EXERCISE,
    broken.EXERCISE,
)
