"""The exercises of lab 08: number the ranks, and choose what to train with."""

from labsupport.exercises.lab_08_multinode import choose, place

EXERCISES = (
    place.EXERCISE,
    choose.EXERCISE,
)
