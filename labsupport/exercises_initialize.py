"""The exercises of lab 02."""

EXERCISES = ()
