"""The exercises of lab 06."""

EXERCISES = ()
