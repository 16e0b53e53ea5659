"""Every recorded measurement is as recorded/schema.json says, and the schema says of each field what it holds."""

import copy

import jsonschema
import pytest
from recorded_schema import GPU_NAMES, RECORDS, RULES, faults

from labsupport.gpu.cells import Cell
from labsupport.gpu.measurements import KINDS
from labsupport.measure.agreement import small_run
from labsupport.memory.moments import MOMENTS
from labsupport.memory.roles import PLACES, ROLES
from labsupport.records import read_record, record_names

NAMES = record_names()


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_as_the_schema_says(name):
    assert faults(name, read_record(name)) == []


def test_the_schema_knows_each_record_and_nothing_else():
    assert {name for name in NAMES if name not in GPU_NAMES} == RECORDS - {"gpu"}
    assert faults("speed", read_record(NAMES[0])) == ["schema.json does not say what the record 'speed' measures."]


def test_the_schema_has_the_words_of_the_package():
    definitions = RULES["$defs"]
    assert set(definitions["roles"]["properties"]) == set(definitions["roles"]["required"]) == set(ROLES)
    assert set(definitions["places"]["properties"]) == set(PLACES)
    assert set(definitions["memory"]["properties"]["moments"]["properties"]) == set(MOMENTS)
    assert set(definitions["cell"]["properties"]["kind"]["enum"]) == set(KINDS)


def fields(rules, place="schema"):
    """Every field that the schema lets a record have, with where it stands; conditions only look at fields."""
    if isinstance(rules, dict):
        yield from ((f"{place}.{name}", field) for name, field in rules.get("properties", {}).items())
        for key, inner in rules.items():
            if key != "if" and not key.startswith("is_"):
                yield from fields(inner, f"{place}.{key}")
    elif isinstance(rules, list):
        for number, inner in enumerate(rules):
            yield from fields(inner, f"{place}[{number}]")


def test_each_field_is_described():
    jsonschema.Draft202012Validator.check_schema(RULES)
    narrowed = {"$ref", "unevaluatedProperties"}  # a field that is described above, for one kind of cell
    described = [(place, field) for place, field in fields(RULES) if not set(field) <= narrowed]
    assert [place for place, field in described if not field.get("description")] == []
    assert len(described) > 100


def gpu_record():
    """A record as a GPU would make it: one cell of the grid, and one that failed."""
    run = read_record("agreement")["measured"]["runs"][0]
    wanted = Cell("grid", small_run(2), steps=10, windows=5).as_dict()
    speed = {
        "seconds_per_step": [0.1, 0.2], "samples_per_second": 10.0, "tokens_per_second": 640.0, "first_loss": 5.5,
        "last_loss": 4.5, "peak_bytes": 100, "reserved_bytes": 200, "resting_bytes": 50, "parameters": 1000,
    }  # fmt: skip
    gap = {"allocated": 10, "counted": 7, "cublas_workspaces": 2, "rounding": 1, "unexplained": 0, "reserved": 20}
    memory = {name: value for name, value in run["measured"].items() if name != "estimate"}
    entries = [
        {"wanted": wanted, "cell": wanted, "measured": memory | speed | {"allocator": gap}},
        {"wanted": wanted, "cell": wanted, "error": "It ended.", "out_of_memory": False},
    ]
    environment = {
        "machine": "1 x a card", "device": "a card", "devices": 1, "precision": "bf16", "memory_bytes": 2**35,
        "compute_capability": "9.0", "driver": "580.1", "cuda": "13.0", "cores": 8, "host_memory_bytes": 2**36,
        "matmul_flops": {"bf16": 1e14}, "copy_bytes_per_second": {"pinned host to GPU": 2e10},
    }  # fmt: skip
    ops = {"optimizer": "DeepSpeed FusedAdam", "reason": "", "nvme": True, "nvme_reason": "", "failed": [],
           "seconds": 1.0}  # fmt: skip
    record = read_record("agreement")
    record["versions"] |= {"cuda": "13.0", "driver": "580.1"}
    return record | {"measured": {"environment": environment, "ops": ops, "cells": entries}}


def test_a_record_of_a_gpu_is_described():
    assert faults("gpu_grid", gpu_record()) == []


WRONG = [
    ("trainer_overhead", "commit", "'commit' is a required property"),
    ("trainer_overhead", "measured seconds_per_step", "'seconds_per_step' is a required property"),
    ("agreement", "measured runs 3 cell config", "'config' is a required property"),
    ("agreement", "measured runs 3 measured moments peak host activations", "'activations' is a required property"),
    ("walkthrough", "measured runs 0 frames 1 wire_bytes", "'wire_bytes' is a required property"),
    ("gpu_grid", "measured cells 0 wanted", "'wanted' is a required property"),
    ("gpu_grid", "measured cells 0 cell kind", "'kind' is a required property"),
    ("gpu_grid", "measured cells 0 measured tokens_per_second", "'tokens_per_second' is a required property"),
    ("gpu_grid", "measured cells 0 measured allocator counted", "'counted' is a required property"),
    ("gpu_grid", "measured cells 1 error", "'measured' is a required property"),
]


@pytest.mark.parametrize(("name", "path", "said"), WRONG)
def test_a_missing_or_misnamed_field_is_named_in_a_sentence(name, path, said):
    record = copy.deepcopy(gpu_record() if name == "gpu_grid" else read_record(name))
    *places, last = [int(part) if part.isdigit() else part for part in path.split()]
    inner = record
    for part in places:
        inner = inner[part]
    value = inner.pop(last)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in places)
    assert f"The record {name!r} is wrong at ${where}: {said}." in faults(name, record)
    if last != "error":  # whose place another field would take
        inner["a_wrong_name"] = value
        assert any("'a_wrong_name'" in fault for fault in faults(name, record))
