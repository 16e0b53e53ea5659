"""What a finding is, and the rules that make findings: each a small function that registers its code.

    @rule("two-half-precisions", ERROR, "runtime/config.py, DeepSpeedConfig._initialize_params", PARSE)
    def both(case):
        if case.fp16.enabled and case.bf16.enabled:
            yield ("bf16", "enabled"), "fp16 and bf16 are both enabled, which DeepSpeed refuses", "keep one of them"

A rule yields the path of the key, one sentence on what DeepSpeed does, and what to do about it.
"""

import itertools
from typing import NamedTuple

ERROR, SILENT, COST, NOTE = "error", "silent", "cost", "note"
MOST = 100  # findings of one rule: a file with more of a kind is no config
SEVERITIES = (ERROR, SILENT, COST, NOTE)  # the worst first
PARSE, INITIALIZE, STEP = "parse", "initialize", "step"


class Finding(NamedTuple):
    """One thing that a config does otherwise than it says, or that costs something, or that is good to know."""

    code: str
    severity: str  # error: DeepSpeed raises; silent: it does something else than the config says; cost; note
    path: str  # of the key: "zero_optimization.stage"; empty for the whole config
    line: int | None  # both from 1; None where there is no file
    column: int | None
    sentence: str
    fix: str
    source: str  # in the installed package deepspeed (or transformers, accelerate): file, function
    when: str | None  # of an error: parse, initialize or step
    keys: tuple = ()  # the path again, step by step

    @property
    def in_words(self):
        """What it is and what to do about it, in one sentence."""
        end = "" if self.fix.endswith("?") else "."
        return f"{self.sentence}: {self.fix}{end}" if self.fix else f"{self.sentence}."

    def line_of(self, name):
        """Return the line for a terminal: file, place, severity, sentence and code."""
        place = f"{name}:{self.line}:{self.column}" if self.line else name
        key = f"{self.path}: " if self.path and not self.sentence.startswith((self.path, str(self.keys[-1]))) else ""
        return f"{place}: {self.severity}: {key}{self.in_words} [{self.code}]"


class Rule(NamedTuple):
    """What finds one kind of thing."""

    code: str
    severity: str
    source: str
    when: str | None
    find: object


RULES = {}


def rule(code, severity, source, when=None):
    """Register the function below it as the rule with this code; `when` is for an error, and says when it is raised."""
    if code in RULES or severity not in SEVERITIES or (severity == ERROR) != bool(when):
        raise ValueError(f"the rule {code} is there already, or is not well made")

    def register(find):
        RULES[code] = Rule(code, severity, source, when, find)
        return find

    return register


def dotted(path):
    """Return a path of keys and indices as people write it: a.b[0].c."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else f"{step}"
    return text


def found_in(case):
    """Return the findings of all rules about a case, the worst first, then by their place."""
    found = []
    rules = RULES.values() if isinstance(case.given, dict) else [RULES["not-a-dict"]]
    for each in rules:
        for path, sentence, fix in itertools.islice(each.find(case), MOST):
            line, column = case.place(path)
            parts = (
                each.code,
                each.severity,
                dotted(path),
                line,
                column,
                sentence,
                fix,
                each.source,
                each.when,
                tuple(path),
            )
            found.append(Finding(*parts))
    when = {PARSE: 0, INITIALIZE: 1, STEP: 2, None: 3}
    return sorted(found, key=lambda one: (SEVERITIES.index(one.severity), when[one.when], one.line or 0))
