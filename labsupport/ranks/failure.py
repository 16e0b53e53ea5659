"""Why a cell failed on a rank: the rank's own error, and the line of the cell that it came from."""

import re

ANSI = re.compile(r"\x1b\[[0-9;]*m")
CHAINED = re.compile(r"During handling of the above exception|The above exception was the direct cause")
IN_FILE = re.compile(r" \(\d+\.py, line \d+\)$")  # what IPython calls a cell in a syntax error
IN_CELL = re.compile(r"^ *Cell In\[(?P<cell>\d+)\], line (?P<line>\d+)", re.MULTILINE)


def reason(call):
    """Return the rank's error in one line."""
    error = call.exception()
    if getattr(error, "ename", "") == "EngineError":
        return "its process was ended from outside, by a signal or because the memory ran out"
    name, text = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error)).strip()
    text = IN_FILE.sub("", text)
    return f"{name}: {text}" if text else name


def traceback(call):
    """Return the rank's traceback as plain text, "" where it left none."""
    return ANSI.sub("", getattr(call.exception(), "traceback", None) or "").strip()


def place(call, code):
    """Return " in line 4 of the cell, `x @ y`": the innermost line of this cell; "" where the traceback has none.

    code: the text of the cell, as the rank got it.
    """
    frames = list(IN_CELL.finditer(CHAINED.split(traceback(call))[-1]))
    own = [int(frame["line"]) for frame in frames if frame["cell"] == frames[0]["cell"]]
    lines = code.splitlines()
    if not own or own[-1] > len(lines):
        return ""
    return f" in line {own[-1]} of the cell, `{lines[own[-1] - 1].strip()}`"
