"""The exercises of lab 02: make an engine, bring your own optimizer, and know what a rank holds."""

from labsupport.exercises.lab_02_initialize import client_optimizer, held_bytes, initialize

EXERCISES = (
    initialize.EXERCISE,
    client_optimizer.EXERCISE,
    held_bytes.EXERCISE,
)
