"""The exercises of lab 04 on bytes: what a rank holds at each stage, and how many ranks a model needs."""

from labsupport.exercises.lab_04_stages import bytes, fewest_ranks

EXERCISES = (bytes.EXERCISE, fewest_ranks.EXERCISE)
