"""What an exercise is, what can be wrong with an answer, and the verdict on one.

A check is a function of the reader's answer. It returns where the answer is right and raises `Mistaken` where it
knows what was misunderstood. Each exercise is one file, lab_NN_topic/<exercise>.py, with its check, what readers get
wrong there and are told then (MISTAKES), and EXERCISE itself. Answers that are known to be wrong or right stand in
tests/answers under the same name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

NOT_ATTEMPTED = "Not attempted yet: replace the ... in the cell above, run it, and run this cell again."


@dataclass(frozen=True)
class Mistake:
    """What readers get wrong: the message, with {names} that the check fills in, and where to look next."""

    message: str
    hint: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, what to say about it, and what to look at next ("" where there is nothing).

    kind: "passed", "mistake" (one that the exercise knows), "unusable", "not attempted", "gone" (the answer ended its
    process) or "too long".
    """

    passed: bool
    kind: str
    message: str
    hint: str = ""

    @property
    def attempted(self):
        """Whether there was an answer at all."""
        return self.kind != "not attempted"


@dataclass(frozen=True)
class Exercise:
    """One task of a lab.

    id: "NN-name", NN being the lab. difficulty: 1 to 5. target: what must hold, as a number or a behaviour. answer: the
    name that the reader's cell defines. check: called with the answer, on `ranks` processes of one process group; more
    than `seconds` of it are ended from outside; it returns a sentence on what it measured, which a right answer is
    shown. mistakes: by name; "hangs" is what an answer that does not end is told.
    """

    id: str
    title: str
    difficulty: int
    minutes: int
    target: str
    answer: str
    check: Callable
    mistakes: dict[str, Mistake] = field(repr=False)
    ranks: int = 1
    seconds: float = 10

    def heading(self):
        """Return the line that stands above the exercise in its lab."""
        level = "●" * self.difficulty + "○" * (5 - self.difficulty)
        return f"**Difficulty** {level} · **Minutes** {self.minutes} · **Target** {self.target}"


NOT_YET_ATTEMPTED = Verdict(False, "not attempted", NOT_ATTEMPTED)


class Mistaken(Exception):
    """The answer is wrong in a way that the exercise knows: the name of the mistake, and values for its message."""

    def __init__(self, name, /, **values):
        super().__init__(name)
        self.name, self.values = name, values


class Unusable(Exception):
    """The answer cannot be judged: it is of the wrong kind or fails. `error` is what it raised, if it raised."""

    def __init__(self, message, error=None):
        super().__init__(message)
        self.error = error


class NotAttempted(Exception):
    """The answer is still the stub."""
