"""Known problems in the log of a run, the first cause first. No torch.

    for match in find_in_log(open("train.log").read()):
        print(match.line, match.text, match.symptom.fix)

A log of 100 MB has few kinds of lines that differ in their numbers. Each kind is looked at once; only where a pattern
could find it are its lines looked at one by one. What is held of the log is a block of it.
"""

import codecs
import io
import json
import re
import sys
import textwrap
from dataclasses import dataclass, replace

from labsupport.errors import LabError
from labsupport.symptoms.entries import KINDS, Symptom, plain, symptoms

BLOCK_BYTES = 2**20
OVERLAP_BYTES = 2**12  # of a line that is longer than a block and is read in pieces
KINDS_OF_LINES, KIND_BYTES = 20_000, 1_000  # that are kept in mind, and how long each may be
QUOTED_LETTERS = 300
COLOUR = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
ZEROS = bytes.maketrans(b"123456789", b"000000000")
# The last line of a Python traceback, behind what a launcher or a logger puts in front.
LAST_OF_TRACEBACK = re.compile(rb"^(?:\[[^\]]*\](?:<\w+>)?:? *|\w[\w.-]*: +)*([\w.]*(?:Error|Exception))(?:: .*)?\r?$")


@dataclass(frozen=True)
class Match:
    """An entry found in a log: the first line of it, what stands there, how often; None for an unknown error."""

    symptom: Symptom | None
    line: int
    text: str
    count: int = 1


def find_in_log(text):
    """Return the matches in a log's text: errors, warnings, then what only follows from another rank's error.

    Where no error is known, the first that is not known stands among them, with None for its entry.
    """
    return _find(io.BytesIO(text.encode(errors="replace")))[0]


def report(path, as_json=False):
    """Print what is known of a log's errors; return 1 where a run ended by one of them, else 0; "-" is standard input.

    Raises LabError, in one sentence, where there is no text to read.
    """
    matches, lines = _find_in_file(path)
    known = [match for match in matches if match.symptom]
    if as_json:
        print(json.dumps({"log": str(path), "lines": lines, "found": [_as_dict(match) for match in matches]}, indent=1))
    elif known:
        print("\n\n".join(_in_words(match) for match in matches))
    else:
        first = "".join(f"; its first error is on line {match.line:,}: {match.text}" for match in matches)
        many = "1 line" if lines == 1 else f"{lines:,} lines"
        print(f"Nothing known was found in {path} ({many}){first}{'' if first else '.'}")
    return int(any(match.symptom is None or match.symptom.kind != "warning" for match in matches))


def _in_words(match):
    more = f", and {match.count - 1:,} times more" if match.count > 1 else ""
    head = f"line {match.line:,}{more}: {match.text}"
    if match.symptom is None:
        return f"{head}\n\n  Not known here, and it stands before what follows: look at it first."
    parts = [f"{match.symptom.title}", f"Cause. {plain(match.symptom.cause)}", f"Fix. {plain(match.symptom.fix)}"]
    return "\n\n".join([head, *(textwrap.indent(part, "  ") for part in parts)])


def _as_dict(match):
    found = {"line": match.line, "text": match.text, "count": match.count}
    if (symptom := match.symptom) is None:
        return found | {"entry": None}
    return found | {
        "entry": symptom.name,
        "kind": symptom.kind,
        "title": symptom.title,
        "cause": plain(symptom.cause),
        "fix": plain(symptom.fix),
        "page": f"book/troubleshooting.html#{symptom.anchor}",
    }


def _find_in_file(path):
    """The matches and the number of lines; raises LabError."""
    try:
        with sys.stdin.buffer if path == "-" else open(path, "rb") as stream:
            start = stream.read(BLOCK_BYTES)
            if not start.strip():
                raise LabError(f"{path} is empty: give the file that holds what the run wrote, its errors too.")
            if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes it
                stream.seek(0)
                return _find(codecs.EncodedFile(stream, "utf-8", "utf-16", errors="replace"))
            if b"\0" in start[:OVERLAP_BYTES]:
                raise LabError(f"{path} is not a text: unpack it, if it is packed, and give the log itself.")
            return _find(stream, start)
    except IsADirectoryError:
        raise LabError(f"{path} is a folder: give one log in it.") from None
    except FileNotFoundError:
        raise LabError(f"There is no file {path}: give the log of a run.") from None
    except (OSError, ValueError) as error:  # a name with a zero in it is a ValueError
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise LabError(f"{path} cannot be read ({why}): give another log.") from None


class _Kinds:
    """Which entries could find a line, looked up by the line's kind: the line with 0 for every digit."""

    def __init__(self, patterns):
        self.loose = {symptom: re.compile(_any_of(map(_any_number, symptom.patterns))) for symptom in patterns}
        self.any_loose = re.compile(_any_of(_any_number(each) for symptom in patterns for each in symptom.patterns))
        self.known = {}

    def look_up(self, line):
        """Return the entries that could find the line, and whether it could end a traceback."""
        kind = line.translate(ZEROS)
        if kind in self.known:
            return self.known[kind]
        could = self.any_loose.search(kind) and [each for each, loose in self.loose.items() if loose.search(kind)]
        found = could or [], bool(LAST_OF_TRACEBACK.match(kind))
        if len(kind) <= KIND_BYTES:
            if len(self.known) >= KINDS_OF_LINES:
                self.known.clear()
            self.known[kind] = found
        return found


def _find(stream, start=b""):
    """The matches and the number of lines of a stream of bytes, of which `start` was read before."""
    patterns = {symptom: re.compile(_any_of(symptom.patterns)) for symptom in symptoms() if symptom.patterns}
    kinds, found, counts, unknown, number = _Kinds(patterns), {}, {}, None, 0
    for lines, ended in _lines(stream, start):
        for at, line in enumerate(lines, number + 1):
            could, ends_traceback = kinds.look_up(line)
            here = [symptom for symptom in could if patterns[symptom].search(line)]
            for symptom in here:
                found.setdefault(symptom, Match(symptom, at, _quoted(line, patterns[symptom])))
                counts[symptom] = counts.get(symptom, 0) + 1
            if ends_traceback and not here and not unknown:
                unknown = Match(None, at, _quoted(line, LAST_OF_TRACEBACK))
        number += len(lines) - (not ended)
    matches = [replace(match, count=counts[symptom]) for symptom, match in found.items()]
    matches.sort(key=lambda match: (KINDS.index(match.symptom.kind), match.line))
    return _with_unknown(matches, unknown), number


def _with_unknown(matches, unknown):
    """The matches, and before them the first error that no entry knows, where they have no error that came before."""
    known = [match for match in matches if match.symptom.kind != "warning"]
    if unknown is None or any(match.symptom.kind == "error" or match.line < unknown.line for match in known):
        return matches
    return [unknown, *matches]


def _lines(stream, start):
    """Lists of lines, and whether the last of each is whole; one that is longer than a block comes in pieces."""
    rest, block = b"", start or stream.read(BLOCK_BYTES)
    while block:
        text = COLOUR.sub(b"", rest + block) if b"\x1b" in block else rest + block
        whole, newline, rest = text.rpartition(b"\n")
        if newline:
            yield whole.split(b"\n"), True
        elif len(rest) > BLOCK_BYTES:
            yield [rest], False
            rest = rest[-OVERLAP_BYTES:]  # what begins in this piece and ends in the next one
        block = stream.read(BLOCK_BYTES)
    if rest:
        yield [rest], True


def _any_of(patterns):
    """One pattern, as bytes, for several that begin with a letter: those with the same one are tried together."""
    by_letter = {}
    for pattern in patterns:
        by_letter.setdefault(pattern[0], []).append(pattern[1:])
    return "|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in by_letter.items()).encode()


def _any_number(pattern):
    """A pattern that takes any digit where this one names one; what stands in brackets stays."""
    return re.sub(r"\[[^\]]*\]|\{[^}]*\}|\d", lambda part: "[0-9]" if part[0].isdigit() else part[0], pattern)


def _quoted(line, pattern):
    """What of a line the pattern found, with what stands around it, as far as a reader wants to see it."""
    part = next((part for part in line.split(b"\r") if pattern.search(part)), line)
    start = max(0, pattern.search(part).start() - QUOTED_LETTERS // 3) if len(part) > QUOTED_LETTERS else 0
    return part[start : start + QUOTED_LETTERS].decode(errors="replace").strip()
