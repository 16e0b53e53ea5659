"""The exercises of lab 06: write the fragment, choose what fits, and know what does nothing."""

from labsupport.exercises.lab_06_offload import does_nothing, fits, offload_config

EXERCISES = (
    offload_config.EXERCISE,
    does_nothing.EXERCISE,
    fits.EXERCISE,
)
