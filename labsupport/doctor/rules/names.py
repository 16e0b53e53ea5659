"""Where a key belongs, and which one was meant: what the rules about keys share."""

import difflib
import functools

from labsupport.doctor.blocks import model_of
from labsupport.doctor.known import known

# What people write of themselves into a config that has no comments.
COMMENTS = ("comment", "note", "notes", "description", "info", "author", "date", "version", "todo", "readme", "source",
            "about", "doc", "documentation", "name", "title", "meta", "metadata", "license")  # fmt: skip


def is_comment(key, value):
    """Whether a key is plainly a comment: it begins as one, or has a comment's name and a text."""
    name = str(key).strip().lower()
    if name.startswith(("_", "#", "//", "/*", "$")) or name.endswith(("_comment", "-comment")) or not name:
        return True
    return name in COMMENTS and isinstance(value, str)


def shown(value, longest=60):
    """Return a value as the sentence has it: short, on one line."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 4]} ...{text[-1]}"


def nearest(key, names):
    """Return the name that a mistyped key is nearest to, or None."""
    close = difflib.get_close_matches(str(key)[:60].lower().replace("-", "_"), names, n=1, cutoff=0.75)
    return close[0] if close else None


def names_of(root):
    """Return the names that a block of pydantic takes: those of its fields, and their longer ones."""
    fields = known()["models"][known()["roots"][root]]["fields"]
    return [name for field, entry in fields.items() for name in (field, entry.get("alias")) if name]


def fields_of(model):
    """Return the names that a model of pydantic takes."""
    return [n for field, entry in known()["models"][model]["fields"].items() for n in (field, entry.get("alias")) if n]


@functools.cache
def places():
    """{name of a key: the dotted blocks in which DeepSpeed reads it}; "" is the top level."""
    found = {}

    def add(name, place):
        found.setdefault(name, [])
        if place not in found[name]:
            found[name].append(place)

    def add_model(model, place):
        for field, entry in known()["models"][model]["fields"].items():
            for name in {field, entry.get("alias")} - {None}:
                add(name, place)
            for inner in _models_in(entry["type"]):
                add_model(inner, f"{place}.{entry.get('alias') or field}" if place else field)

    for key in known()["top_level"]:
        add(key, "")
    for root, model in known()["roots"].items():
        add_model(model, "" if root == "monitor" else root)
    for block, keys in known()["blocks"].items():
        for key in keys:
            add(key, block)
    return found


def _models_in(kind):
    if isinstance(kind, str):
        return []
    if "model" in kind:
        return [kind["model"]]
    return [name for each in kind.get("union", ()) for name in _models_in(each)]


def way_out(key, here, names):
    """Return what to do about a key that a block does not have: the name that was meant, or where it belongs."""
    where = [place for place in places().get(str(key), ()) if place != here]
    if close := nearest(key, [name for name in names if name != key]):
        return (
            f"did you mean {close!r}?" if not where else f"did you mean {close!r}, or does it belong {put(where[0])}?"
        )
    if where and str(key) not in AMBIGUOUS:
        return f"move it {put(where[0])}"
    return "delete it"


AMBIGUOUS = ("enabled", "type", "params", "dtype", "device", "profile", "seed", "project", "group", "team")


def put(place):
    """Return a place in words: "to the top level", "into zero_optimization"."""
    return f"into {place}" if place else "to the top level"


__all__ = [
    "AMBIGUOUS",
    "fields_of",
    "is_comment",
    "model_of",
    "names_of",
    "nearest",
    "places",
    "put",
    "shown",
    "way_out",
]
