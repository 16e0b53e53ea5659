"""Each "What happened" and "Why" of the labs names the cell, test or source that carries it, in statements.toml."""

import importlib.util
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

INDEX = tomllib.loads((ROOT / "tests" / "notebooks" / "statements.toml").read_text())
KINDS = {"What happened": "happened", "Why": "why"}
LABS = {lab.stem: nbformat.read(lab, 4).cells for lab in sorted((ROOT / "notebooks").glob("*.ipynb"))}
CODE = {cell.id: cell for cells in LABS.values() for cell in cells if cell.cell_type == "code"}


def kinds_of(cell):
    return {KINDS[word] for word in re.findall(r"^\*\*(What happened|Why)", cell.source, re.M)}


def installed(path):
    """A file of the repository, or of an installed package."""
    package, _, inside = path.partition("/")
    if (ROOT / path).exists():
        return ROOT / path
    return Path(importlib.util.find_spec(package).origin).parent / inside


@pytest.mark.parametrize("lab", LABS)
def test_every_statement_has_an_entry_of_its_own(lab):
    said = {cell.id: kinds_of(cell) for cell in LABS[lab] if cell.cell_type == "markdown" and kinds_of(cell)}
    assert {cell: set(INDEX.get(cell, {})) for cell in said} == said
    assert all(targets for cell in said for targets in INDEX[cell].values())


def test_no_entry_is_left_over():
    cells = {cell.id for cells in LABS.values() for cell in cells}
    assert set(INDEX) <= cells


@pytest.mark.parametrize("lab", LABS)
def test_the_cells_that_are_named_stand_in_the_same_lab(lab):
    own = {cell.id for cell in LABS[lab] if cell.cell_type == "code"}
    for cell in LABS[lab]:
        for target in sum(INDEX.get(cell.id, {}).values(), []):
            if target.startswith("cell:"):
                assert target[5:] in own, (cell.id, target)


def test_the_tests_and_sources_that_are_named_exist():
    for cell, kinds in INDEX.items():
        for target in sum(kinds.values(), []):
            how, _, rest = target.partition(":")
            if how == "test":
                file, _, name = rest.partition("::")
                assert name and re.search(rf"^def {name}\b", (ROOT / file).read_text(), re.M), (cell, target)
            elif how == "source":
                file, _, text = rest.partition("#")
                assert text and text in installed(file).read_text(), (cell, target)
            else:
                assert how == "cell", (cell, target)
