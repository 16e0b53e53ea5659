"""How a verdict and the reader's progress look: a card in a notebook, text in a terminal."""

import html

from labsupport.cell_output import CellOutput

PASSED, NOT_YET, OPEN = ("✓", "#2a9d6a"), ("✗", "#d1782f"), ("–", "#8a8f98")
BORDER = "1px solid color-mix(in srgb, currentColor 25%, transparent)"
CELL = 'style="padding:.1em 1.2em .1em 0;text-align:left"'
BOX = f"border:{BORDER};border-radius:6px;padding:.5em .9em;margin:.4em 0"


class VerdictCard:
    """One output of a cell: what is being waited for, and then the verdict in its place."""

    def __init__(self, exercise):
        self.exercise, self._output = exercise, CellOutput()

    def show_waiting(self, starting):
        """Say that the answer is being run, and on what."""
        where = "a process of its own" if self.exercise.ranks == 1 else f"{self.exercise.ranks} ranks of its own"
        words = f"Running your answer in {where} ..."
        if starting:
            words = f"Starting {where} for the checks, one time, which takes some ten seconds ..."
        self._output.show(words, _card(OPEN, self.exercise.id, words, "", ""))

    def show(self, verdict, note=None):
        """Show the verdict; note: a sentence about the reader's progress file, or None."""
        mark, title = OPEN, "not attempted"
        if verdict.attempted:
            mark, title = (PASSED, "passed") if verdict.passed else (NOT_YET, "not yet")
        lines = [f"[{self.exercise.id}: {title}] {verdict.message}"]
        lines += [f"Hint: {verdict.hint}"] if verdict.hint else []
        lines += [note] if note else []
        heading = f"{self.exercise.id}: {title}"
        self._output.show("\n".join(lines), _card(mark, heading, verdict.message, verdict.hint, note or ""))


def show_summary(lab, exercises_of_labs, done, sentence):
    """Show this lab's exercises one by one and the other labs' as counts.

    exercises_of_labs: the Exercises by lab. done: the ids that were passed. sentence: where the progress is kept.
    """
    here = exercises_of_labs[lab]
    rows = [(exercise.id in done, exercise.id, exercise.title, exercise.minutes) for exercise in here]
    counts = {name: (sum(e.id in done for e in each), len(each)) for name, each in exercises_of_labs.items()}
    total = f"{counts[lab][0]} of {counts[lab][1]} exercises of this lab are done"
    others = ", ".join(
        f"{name.partition('_')[0]}: {passed} of {of}" for name, (passed, of) in counts.items() if name != lab
    )
    plain = [f"{total}."]
    plain += [f"  [{'x' if passed else ' '}] {name:22} {title}" for passed, name, title, _ in rows]
    plain += [f"The other labs: {others}.", sentence]
    cells = "".join(
        f"<tr><td {CELL}><strong>{'✓ done' if passed else '– open'}</strong></td><td {CELL}><code>{name}</code></td>"
        f"<td {CELL}>{html.escape(title)}</td><td {CELL}>{minutes} min</td></tr>"
        for passed, name, title, minutes in rows
    )
    head = "".join(f"<th {CELL}>{word}</th>" for word in ("done", "exercise", "what", "time"))
    rich = (
        f'<div class="exercise-progress" style="{BOX}"><strong>{total}.</strong>'
        f'<table style="margin:.5em 0"><thead><tr>{head}</tr></thead>'
        f"<tbody>{cells}</tbody></table>"
        f'<div>The other labs: {others}.</div><div style="opacity:.8">{html.escape(sentence)}</div></div>'
    )
    CellOutput().show("\n".join(plain), rich)


def _card(mark, heading, message, hint, note):
    symbol, colour = mark
    body = f'<div><span aria-hidden="true" style="color:{colour}">{symbol}</span> <strong>{heading}</strong></div>'
    body += f"<div>{html.escape(message)}</div>"
    if hint:
        body += f"<details><summary>Hint</summary>{html.escape(hint)}</details>"
    if note:
        body += f'<div style="opacity:.8">{html.escape(note)}</div>'
    return f'<div class="exercise-verdict" role="status" style="{BOX};border-left:5px solid {colour}">{body}</div>'
