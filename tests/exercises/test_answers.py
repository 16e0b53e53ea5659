"""What an answer is before it is judged: begun, or still the stub, whichever bytecode this Python makes of it."""

import pytest

from labsupport.exercises.answers import is_stub, require_dict
from labsupport.exercises.exercise import Unusable


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


class EqualToAll(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def test_a_dict_is_judged_by_what_json_makes_of_it_and_not_by_the_readers_own_kinds():
    given = {"train_batch_size": EqualToAll(3), "zero_optimization": {"stage": 2}}
    plain = require_dict(given, "The config")
    assert plain["train_batch_size"] != 4 and type(plain["train_batch_size"]) is int
    plain["zero_optimization"]["stage"] = 3
    assert given["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize("answer", [None, [1], {"a": {1, 2}}, {"a": object()}], ids=range(4))
def test_what_is_no_dict_or_no_json_is_unusable(answer):
    with pytest.raises(Unusable, match="The config"):
        require_dict(answer, "The config")
