"""Holds a record against labsupport/recorded/schema.json."""

import json

import jsonschema

from labsupport.gpu.suites import SUITES
from labsupport.records import SCHEMA

RULES = json.loads(SCHEMA.read_text())
RECORDS = {name for name, part in RULES["$defs"].items() if "title" in part}  # the others are parts of these
GPU_NAMES = {f"gpu_{suite}" for suite in SUITES}


def faults(name, content):
    """What is wrong with a record, a sentence each, which names the field."""
    measured = "gpu" if name in GPU_NAMES else name
    if measured not in RECORDS:
        return [f"{SCHEMA.name} does not say what the record {name!r} measures."]
    rules = {**RULES, "allOf": [{"properties": {"measured": {"$ref": f"#/$defs/{measured}"}}}]}
    found = jsonschema.Draft202012Validator(rules).iter_errors(content)
    return [f"The record {name!r} is wrong at {error.json_path}: {error.message}." for error in found]
