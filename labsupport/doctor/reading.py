"""A file becomes a config as DeepSpeed reads it: Hjson, with its own numbers, and with the place of every key.

    document = read_document("ds_config.json")
    document.value, document.place(("zero_optimization", "stage"))

DeepSpeed reads a file with the library hjson (runtime/tensor_parallel/init_utils.py, load_ds_config). Plain JSON, which
is nearly all there is, is read here with the standard library, a dozen times as fast, into the same values.
"""

import base64
import binascii
import functools
import json
import re
import sys
from pathlib import Path

from labsupport.errors import ConfigError

LARGEST_BYTES = 2**22  # of a file that is looked at
LARGEST_HJSON_BYTES = 2**20  # hjson is written in Python: a megabyte takes it a second
LARGEST_YAML_BYTES = 2**18


class Document:
    """What a file holds: its value, how it is written, and where each key stands."""

    def __init__(self, name, text, value, syntax, bom=False, duplicates=(), too_deep=False, unreadable=None):
        self.name, self.value, self.syntax, self.bom = name, value, syntax, bom
        self.duplicates, self.too_deep, self.unreadable = list(duplicates), too_deep, unreadable
        self.renamed = {}  # {path in the config: path in the file}, where the two differ
        self._text = text

    @property
    def not_plain_json(self):
        """Why json.load refuses the file, in words, or None."""
        if self.bom:
            return "this one begins with a byte order mark"
        return "this one is Hjson" if self.syntax == "hjson" else None

    @functools.cached_property
    def _places(self):
        return yaml_places(self._text) if self.syntax == "yaml" else places(self._text)

    def place(self, path):
        """Return line and column, from 1, of a key or of the nearest block around it that stands in the file."""
        path = tuple(path)
        while path:
            here = self.renamed.get(path) or self._first_within(path) or path
            if here in self._places:
                return self._places[here]
            path = path[:-1]
        return 1, 1

    def _first_within(self, path):
        """Of a block whose keys have other names in the file, the first of them."""
        return next((there for key, there in self.renamed.items() if key[: len(path)] == path), None)


def read_document(path):
    """Return the Document of a file, or of standard input where path is "-"; raises ConfigError, one sentence."""
    if str(path) == "-":
        return document_of(sys.stdin.buffer.read(LARGEST_BYTES + 1), "standard input")
    path = Path(path)
    try:
        if not path.is_file() and not path.is_dir() and path.exists():
            raise ConfigError(f"{path} is no file: give the path of a config.")
        with open(path, "rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"Cannot read the config {path}: {error.strerror.lower()}; give the path of a JSON file."
        ) from None
    except ValueError as error:  # a null byte in a name
        raise ConfigError(f"Cannot read the config {str(path)!r}: {error}; give the path of a JSON file.") from None
    return document_of(content, str(path), yaml=path.suffix in (".yaml", ".yml"))


def document_of(content, name="the config", yaml=False):
    """Return the Document of a file's bytes; raises ConfigError for what no reader of DeepSpeed's would take."""
    if len(content) > LARGEST_BYTES:
        raise ConfigError(f"{name} is larger than {LARGEST_BYTES // 2**20} MiB: that is no config; give another file.")
    if b"\x00" in content:
        what = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "a binary file"
        raise ConfigError(f"Cannot read the config {name}: it is {what}, not UTF-8 text; save it as UTF-8.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"Cannot read the config {name}: it is not UTF-8 text (byte {error.start + 1}); save it as UTF-8."
        ) from None
    bom = text.startswith("\ufeff")
    text = text.lstrip("\ufeff").replace("\r\n", "\n")
    if yaml or re.search(r"^(deepspeed_config|compute_environment)\s*:", text, re.MULTILINE):
        return _yaml(text, name, bom)
    if not text.strip():
        raise ConfigError(f"{name} is empty: write a config, or wait until the file is written.")
    return _json(text, name, bom)


def _json(text, name, bom):
    doubles = []
    try:
        value = json.loads(text, object_pairs_hook=_pairs(doubles), parse_float=_as_hjson, parse_constant=_no_constant)
        depth = _depth(text)
        deep = depth > 200 and _hjson_gives_up(text)
        return Document(name, text, value, "json", bom, _where(text, doubles), deep)
    except OverflowError as error:
        value = json.loads(text, parse_constant=str)
        return Document(name, text, value, "json", bom, _where(text, doubles), unreadable=str(error))
    except json.JSONDecodeError as error:
        return _hjson(text, name, bom, error)
    except _Constant:
        return _hjson(text, name, bom, None)
    except RecursionError:
        raise ConfigError(f"{name} is nested too deep for any reader: flatten it.") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(
            f"{name} cannot be read: {str(error).split(';')[0].lower()}; write a smaller number."
        ) from None


def _hjson(text, name, bom, plain_error):
    """A text that is no JSON: as hjson reads it, or a ConfigError with the place that JSON's reader names."""
    import hjson

    if len(text) > LARGEST_HJSON_BYTES:
        raise ConfigError(f"{name} is no plain JSON, and larger than 1 MiB: make it smaller, or mend it.")
    if decoded := _base64(text):
        return decoded
    doubles = []
    try:
        value = hjson.loads(text, object_pairs_hook=_pairs(doubles))
    except RecursionError:
        raise ConfigError(f"{name} is nested too deep for DeepSpeed's reader: flatten it.") from None
    except (hjson.HjsonDecodeError, ValueError, IndexError, OverflowError) as error:
        raise ConfigError(f"{name} is not valid {_place_of(error, plain_error)}") from None
    if not isinstance(value, dict | list) and plain_error is not None:
        raise ConfigError(f"{name} is not valid {_place_of(plain_error, plain_error)}")
    return Document(name, text, value, "hjson", bom, _where(text, doubles))


def _place_of(error, plain):
    """The rest of the sentence: as what it is not valid, where, why, and what to look for."""
    line, column = getattr(error, "lineno", None) or 1, getattr(error, "colno", None) or 1
    reason = str(error).split(": line")[0].lower()
    if plain is None:
        return f"Hjson at line {line}, column {column}: {reason}; mend that place."
    if line <= plain.lineno:
        return (
            f"JSON at line {plain.lineno}, column {plain.colno}: {plain.msg.lower()}; "
            "look for a missing comma, quote or bracket just before that place."
        )
    return (  # where a comment or a missing comma ends JSON, the reader wants to know what ends Hjson
        f"Hjson at line {line}, column {column}: {reason}; look for a missing comma, quote or bracket before that "
        f"place, from line {plain.lineno} on, where it is no plain JSON any more."
    )


def _base64(text):
    """DeepSpeed also takes a config that is handed over as base64: the Document within, or None."""
    packed = text.strip()
    if len(packed) < 8 or not re.fullmatch(r"[A-Za-z0-9_\-]+={0,2}", packed):
        return None
    try:
        inner = base64.urlsafe_b64decode(packed).decode("utf-8")
        return _json(inner, "the config in base64", False) if inner.lstrip().startswith("{") else None
    except (binascii.Error, UnicodeDecodeError, ConfigError):
        return None


class _Constant(Exception):
    """NaN or Infinity in JSON, which hjson reads as a text."""


def _no_constant(_):
    raise _Constant


def _as_hjson(text):
    """A number with a point or an exponent as hjson gives it: whole where it is and is below 1e10."""
    value = float(text)
    return int(value) if int(value) == value and abs(value) < 1e10 else value


def _pairs(doubles):
    """The hook that makes the dicts, and notes each key that stands twice in one."""

    def block(pairs):
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [key for key, _ in pairs]
            doubles.extend({key for key in keys if keys.count(key) > 1})
        return made

    return block


def _where(text, doubles):
    """The paths of the keys that stand twice, each once."""
    if not doubles:
        return []
    seen, twice = set(), {}
    for path, _ in _keys(text):
        if path in seen and path[-1] in doubles:
            twice[path] = None
        seen.add(path)
    return list(twice) or [(key,) for key in dict.fromkeys(doubles)]


def _depth(text):
    deepest = depth = 0
    for character in re.findall(r'[\[\]{}]|"(?:[^"\\]|\\.)*"', text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _hjson_gives_up(text):
    import hjson

    try:
        hjson.loads(text)
    except RecursionError:
        return True
    except (ValueError, OverflowError):
        return False
    return False


# Where keys stand. One tolerant scan for JSON and Hjson alike.
_SPACE = re.compile(r"(?:[\s,]|#[^\n]*|//[^\n]*|/\*.*?(?:\*/|\Z))*", re.DOTALL)
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'''.*?'''|'(?:[^'\\]|\\.)*'", re.DOTALL)
_LITERAL = re.compile(r"(?:true|false|null|-?\d[\d.eE+-]*)(?=[ \t]*(?:[,}\]#\n]|//|/\*|$))")
_REST_OF_LINE = re.compile(r"[^\n]*")


def places(text):
    """Return {path: (line, column)} of every key of a JSON or Hjson text, both from 1; the first of two that agree."""
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    found, line = {}, 0
    for path, offset in _keys(text):
        while line + 1 < len(starts) and starts[line + 1] <= offset:
            line += 1
        found.setdefault(path, (line + 1, offset - starts[line] + 1))
    return found


def _keys(text):
    """Yield (path, offset) for every key and every place in a list, in the order of the text."""
    end = _SPACE.match(text).end()
    braced = text[end : end + 1] in ("{", "[")  # Hjson's outermost braces can be left out
    stack = [[(), text[end : end + 1] == "[", 0]]  # of [path of a block, is it a list, next index]
    end += braced
    while stack:
        end = _SPACE.match(text, end).end()
        if end >= len(text):
            return
        if text[end] in "}]":
            stack.pop()
            end += 1
            continue
        outer, is_list, index = stack[-1]
        if is_list:
            path = (*outer, index)
            stack[-1][2] += 1
            yield path, end
        else:
            key, after = _key(text, end)
            if key is None:
                return
            path = (*outer, key)
            yield path, end
            end = _SPACE.match(text, after).end()
            end = _SPACE.match(text, end + (text[end : end + 1] == ":")).end()
        if text[end : end + 1] in ("{", "["):
            stack.append([path, text[end] == "[", 0])
            end += 1
        else:
            end = _after_value(text, end)


def _key(text, start):
    if quoted := _QUOTED.match(text, start):
        try:
            return json.loads(quoted[0]) if quoted[0][0] == '"' else quoted[0].strip("'"), quoted.end()
        except ValueError:
            return quoted[0][1:-1], quoted.end()
    colon = text.find(":", start)
    return (text[start:colon].strip(), colon) if colon >= 0 else (None, start)


def _after_value(text, start):
    for pattern in (_QUOTED, _LITERAL, _REST_OF_LINE):
        if matched := pattern.match(text, start):
            return matched.end()
    return len(text)


def _yaml(text, name, bom):
    import yaml

    if len(text) > LARGEST_YAML_BYTES:
        raise ConfigError(f"{name} is larger than {LARGEST_YAML_BYTES // 1024} KiB of YAML: that is no config.")
    try:
        value = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except RecursionError:
        raise ConfigError(f"{name} is nested too deep for any reader: flatten it.") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{name} is not valid YAML{where}: {why}; mend that place.") from None
    return Document(name, text, value, "yaml", bom)


def yaml_places(text):
    """Return {path: (line, column)} of every key of a YAML text, both from 1."""
    import yaml

    found = {}

    def walk(node, path):
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*path, key.value)] = (key.start_mark.line + 1, key.start_mark.column + 1)
                walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                found[(*path, index)] = (value.start_mark.line + 1, value.start_mark.column + 1)
                walk(value, (*path, index))

    if (root := yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))) is not None:
        walk(root, ())
    return found
