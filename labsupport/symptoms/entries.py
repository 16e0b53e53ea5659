"""The entries: what stands in a log, why, and what to do. No torch.

    for symptom in symptoms():
        print(symptom.anchor, symptom.title)

An entry is a table of its section's file, named after its anchor without `trouble-`, which never changes:

    [no-batch-size]
    title = "Either train_batch_size or train_micro_batch_size_per_gpu"
    text = "..."          what DeepSpeed says, word for word; left out where it says nothing
    patterns = ['...']    regular expressions for one line of a log: each begins with a letter, a digit or a quotation
                          mark as it stands there, and is of the kind that Python and JavaScript both read
    kind = "error"        or "warning", on which the run goes on, or "follower", which may only tell of another error
    cause = "..."         Markdown, one sentence a line, as seen from the folder book/
    fix = "..."
    reproduced = "..."    the test that makes the mistake, or
    needs = "a GPU"       what it would take to make it
    source = ["..."]      a file of an installed package, or an issue

"""

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SECTIONS = ("installation", "configuration", "optimizers", "training", "hugging_face", "checkpoints", "launcher",
            "ranks", "memory")  # fmt: skip
KINDS = ("error", "warning", "follower")


@dataclass(frozen=True)
class Symptom:
    """One entry, with the section that it stands in; the fields are those of its table."""

    name: str
    section: str
    title: str
    cause: str
    fix: str
    text: str = ""
    patterns: tuple = ()
    kind: str = "error"
    lead: str = ""
    reproduced: str = ""
    needs: str = ""
    source: tuple = ()

    @property
    def anchor(self):
        """The entry's anchor on the page."""
        return f"trouble-{self.name}"

    def finds(self, line):
        """Whether one of the patterns finds itself in a line of a log, or in several."""
        return any(re.search(pattern, line) for pattern in self.patterns)


@dataclass(frozen=True)
class Section:
    """A section of the page: its file's name, its title, what stands before its entries, and these."""

    name: str
    title: str
    introduction: str
    symptoms: tuple


@functools.cache
def sections():
    """Return the sections, in the page's order."""
    return tuple(_section(name) for name in SECTIONS)


def symptoms():
    """Return all entries, in the page's order."""
    return tuple(symptom for section in sections() for symptom in section.symptoms)


def _section(name):
    read = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    title, introduction = read.pop("section"), read.pop("introduction", "").strip()
    return Section(name, title, introduction, tuple(_symptom(entry, title, **fields) for entry, fields in read.items()))


def _symptom(name, section, patterns=(), source=(), **fields):
    trimmed = {field: value.rstrip("\n") for field, value in fields.items()}
    return Symptom(name, section, patterns=tuple(patterns), source=tuple(source), **trimmed)


def plain(markdown):
    """Return Markdown as a terminal shows it: [words](target) as words (target), from the repository's top folder."""

    def link(match):
        target = match[2]
        if target.startswith("#"):
            target = f"book/troubleshooting.md{target}"
        elif not target.startswith("http"):
            target = target.removeprefix("../") if target.startswith("../") else f"book/{target}"
        return f"{match[1]} ({target})"

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", link, markdown)
