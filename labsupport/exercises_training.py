"""The exercises of lab 03."""

EXERCISES = ()
