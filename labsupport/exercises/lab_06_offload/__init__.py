"""The exercises of lab 06: write the fragment, and choose what fits."""

from labsupport.exercises.lab_06_offload import fits, offload_config

EXERCISES = (
    offload_config.EXERCISE,
    fits.EXERCISE,
)
