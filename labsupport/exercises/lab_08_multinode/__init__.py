"""The exercises of lab 08: write the hostfile, number the ranks, and choose what to train with."""

from labsupport.exercises.lab_08_multinode import choose, hostfile, place

EXERCISES = (
    hostfile.EXERCISE,
    place.EXERCISE,
    choose.EXERCISE,
)
