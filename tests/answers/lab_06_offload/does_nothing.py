"""Exercise 06-does-nothing: answers that are known to be wrong, by their mistake, and right ones."""

from labsupport.exercises.lab_06_offload.does_nothing import RUNS


def _answer(places):
    """The source of a cell that says these five places, in the order of RUNS."""
    return f"where = {dict(zip(RUNS, places.split(), strict=True))!r}"


WRONG = {
    "stage 0, optimizer to cpu": (_answer("host host host nothing host"), _answer("drive host host nothing host")),
    "stage 1, optimizer to cpu": (_answer("nothing nothing host nothing host"),),
    "stage 2, optimizer to nvme": (
        _answer("nothing host drive nothing host"),
        _answer("nothing host nothing nothing nothing"),
    ),
    "stage 2, parameters to cpu": (_answer("nothing host host host host"),),
    "stage 3, parameters to cpu": (
        _answer("nothing host host nothing nothing"),
        _answer("nothing host host nothing drive"),
    ),
}

RIGHT = (
    """where = {
    "stage 3, parameters to cpu": "host", "stage 2, parameters to cpu": "nothing", "stage 2, optimizer to nvme": "host",
    "stage 1, optimizer to cpu": "host", "stage 0, optimizer to cpu": "nothing",
}""",
    """names = ("stage 1, optimizer to cpu", "stage 2, optimizer to nvme", "stage 3, parameters to cpu")
where = dict.fromkeys(names, "host") | dict.fromkeys(
    ("stage 0, optimizer to cpu", "stage 2, parameters to cpu"), "nothing")""",
    """where = {}
for stage, what, device in (
    (0, "optimizer", "cpu"), (1, "optimizer", "cpu"), (2, "optimizer", "nvme"), (2, "parameters", "cpu"),
    (3, "parameters", "cpu"),
):
    least = 1 if what == "optimizer" else 3
    where[f"stage {stage}, {what} to {device}"] = "host" if stage >= least else "nothing\"""",
)
