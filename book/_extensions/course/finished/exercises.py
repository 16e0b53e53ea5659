"""The exercises on a page without a kernel: a wrong answer with its verdict for a card that says "not attempted".

The verdicts are what the checks said: book/wrong_answers.py records them. And where a lab printed the progress of
whoever built the book, which is nobody's, progress.js lets the reader mark what is done.
"""

import functools
import hashlib
import html
import inspect
import json
import re
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from labsupport.exercises.catalog import find

RECORD = Path(__file__).parents[3] / "wrong_answers.json"
CARD = re.compile(
    r'<div class="exercise-verdict"[^>]*><div>(?:(?!</div>).)*<strong>([\w-]+): not attempted</strong></div>'
    r"<div>[^<]*</div></div>"
)
# Up to the two closing tags of its last line, and that of the output around it.
PROGRESS = re.compile(r'<div class="exercise-progress".*?</table>.*?</div></div>(?=</div>)', re.DOTALL)
EXERCISE_OF_PROGRESS = re.compile(r"<code>(\d\d-[\w-]+)</code>")


def show(page):
    """Return a page's HTML with the wrong answers, and with places to mark the exercises that are done."""
    page = CARD.sub(lambda card: _sample(card[1]) or card[0], page)
    return PROGRESS.sub(lambda table: _marks(EXERCISE_OF_PROGRESS.findall(table[0])), page)


def digest_of(exercise, answer):
    """Return one digest of an exercise's file and an answer: what the verdict follows from."""
    source = Path(inspect.getsourcefile(exercise.check)).read_bytes()
    return hashlib.sha256(source + answer.encode()).hexdigest()


@functools.cache
def record():
    """Return {id of the exercise: what was recorded of it}; test_wrong_answers.py says where that is out of date."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def _sample(identifier):
    """A wrong answer with its verdict as HTML, or None where what was recorded is of another check."""
    sample = record().get(identifier)
    if sample is None or digest_of(find(identifier), sample["answer"]) != sample["digest"]:
        return None
    code = highlight(sample["answer"], PythonLexer(), HtmlFormatter(nowrap=True))
    hint = f"<details><summary>Hint</summary>{html.escape(sample['hint'])}</details>" if sample["hint"] else ""
    return (
        '<div class="wrong-answer"><p class="wrong-answer-title">A wrong answer, and what the check says to it</p>'
        f'<div class="highlight"><pre tabindex="0">{code}</pre></div><div class="wrong-answer-verdict">'
        f"<strong>✗ {identifier}: not yet</strong><p>{html.escape(sample['message'])}</p>{hint}</div></div>"
    )


def _marks(identifiers):
    """The exercises of a lab, each to be marked as done; without scripts, where to do that."""
    rows = "".join(
        f'<li data-exercise="{name}"><code>{name}</code> {html.escape(find(name).title)}</li>' for name in identifiers
    )
    return f'<ul class="exercise-marks">{rows}</ul>'
