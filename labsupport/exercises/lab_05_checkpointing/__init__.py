"""The exercises of lab 05: save and load on every rank, and go on with another number of them."""

from labsupport.exercises.lab_05_checkpointing import client_state, other_ranks, save_best, save_load

EXERCISES = (
    client_state.EXERCISE,
    save_load.EXERCISE,
    save_best.EXERCISE,
    other_ranks.EXERCISE,
)
