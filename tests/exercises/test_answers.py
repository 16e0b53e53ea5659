"""What an answer is before it is judged: begun, or still the stub, whichever bytecode this Python makes of it."""

import pytest

from labsupport.exercises.answers import is_stub


def only_a_docstring(x):
    """Return the sum."""


def dots_alone(x): ...


def docstring_and_dots(x):
    """Return the sum."""
    ...


def returns_dots(x):
    return ...


def passes(x):
    pass


def returns_a_number(x):
    return 3


def returns_its_argument(x):
    return x


def calls_something(x):
    print(x)


def has_begun(x):
    total = 0
    ...
    return total


def dots_in_one_branch(x):
    if x:
        return ...
    return 0


STUBS = [..., [1, ...], {"a": ...}, only_a_docstring, dots_alone, docstring_and_dots, returns_dots, passes,
         dots_in_one_branch, (dots_alone, returns_its_argument)]  # fmt: skip
BEGUN = [None, 0, [], {"a": 1}, "...", returns_a_number, returns_its_argument, calls_something, has_begun, print]


@pytest.mark.parametrize("answer", STUBS, ids=range(len(STUBS)))
def test_what_was_not_begun_is_a_stub(answer):
    assert is_stub(answer)


@pytest.mark.parametrize("answer", BEGUN, ids=range(len(BEGUN)))
def test_what_was_begun_is_none(answer):
    assert not is_stub(answer)
