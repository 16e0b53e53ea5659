"""The exercises of lab 05."""

EXERCISES = ()
