"""The exercises of the second half of lab 04: a weight that is cut up, and the messages that carry it."""

from labsupport.exercises.lab_04_stages import collectives, edit

EXERCISES = (edit.EXERCISE, collectives.EXERCISE)
