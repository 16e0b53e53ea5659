"""The milestone of the course, in lab 09: a trainer of the reader's own."""

from labsupport.exercises.lab_09_milestone.milestone import EXERCISE

EXERCISES = (EXERCISE,)
