"""The exercise of lab 02: know what a rank holds."""

from labsupport.exercises.lab_02_initialize import held_bytes

EXERCISES = (held_bytes.EXERCISE,)
