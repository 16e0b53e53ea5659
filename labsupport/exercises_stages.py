"""The exercises of lab 04."""

EXERCISES = ()
