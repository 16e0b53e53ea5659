"""The exercises of lab 07: the order that ZeRO-3 needs, and a config that leaves its numbers to the Trainer."""

from labsupport.exercises.lab_07_huggingface import auto, order

EXERCISES = (
    order.EXERCISE,
    auto.EXERCISE,
)
