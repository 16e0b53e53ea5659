"""The exercises of lab 08."""

EXERCISES = ()
