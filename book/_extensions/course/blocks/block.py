"""The computed blocks by name: functions without arguments that return Markdown, or a LabFigure.

@block
def break_even(): ...           # a page shows it with ```{computed} break_even```
"""

from sphinx.errors import ExtensionError

BLOCKS = {}


def block(function):
    """Register a block under its function's name; raises ExtensionError for a name that another one has."""
    name = function.__name__
    if name in BLOCKS:
        raise ExtensionError(
            f"Two computed blocks are called {name!r}, in {BLOCKS[name].__module__} and {function.__module__}: "
            "rename one."
        )
    BLOCKS[name] = function
    return function
