"""What book/troubleshooting.md shows: every entry of labsupport/symptoms, and the box that finds them in a text.

PYTHONPATH=book/_extensions python -c "from course.blocks.troubleshooting import *; print(troubleshooting_entries())"
"""

import json

from course.blocks.block import block
from labsupport.symptoms.entries import sections, symptoms

ISSUE = "https://github.com/"


@block
def troubleshooting_entries():
    """Every entry under its section and its anchor, as Markdown with headings."""
    return "\n\n".join(_section(section) for section in sections())


def _section(section):
    parts = [f"## {section.title}", section.introduction, *(_entry(symptom) for symptom in section.symptoms)]
    return "\n\n".join(part for part in parts if part)


def _entry(symptom):
    parts = [
        f"({symptom.anchor})=\n### {symptom.title}",
        "*Reproduced.*" if symptom.reproduced else f"*Not reproduced: that takes {symptom.needs}.*",
        symptom.lead,
        f"```text\n{symptom.text}\n```" if symptom.text else "",
        f"**Cause.** {symptom.cause}",
        f"**Fix.** {symptom.fix}",
        _sources(symptom.source),
    ]
    return "\n\n".join(part for part in parts if part)


def _sources(source):
    """Where the text stands and who reported it, in one line."""
    if not source:
        return ""
    return f"*Source:* {', '.join(map(_linked, source))}."


def _linked(place):
    if not place.startswith(ISSUE):
        return f"`{place}`" if place.endswith(".py") and " " not in place else place
    owner_and_name, _, number = place.removeprefix(ISSUE).replace("/pull/", "/issues/").partition("/issues/")
    return f"[{owner_and_name.partition('/')[2]} {number}]({place})"


@block
def error_finder():
    """The place of the box that finds the entries in a pasted text, with their patterns: error_finder.js reads them."""
    entries = [
        {"anchor": each.anchor, "title": each.title, "kind": each.kind, "patterns": each.patterns}
        for each in symptoms()
        if each.patterns
    ]
    data = json.dumps(entries, separators=(",", ":")).replace("</", "<\\/")
    still = "<p>Where scripts run, a box stands here that finds the entries in a pasted text.</p>"
    return f'<div class="error-finder">{still}<script type="application/json">{data}</script></div>\n\n{_counted()}'


def _counted():
    made = sum(bool(symptom.reproduced) for symptom in symptoms())
    return f"There are {len(symptoms())} entries, and tests make {made} of the mistakes."
