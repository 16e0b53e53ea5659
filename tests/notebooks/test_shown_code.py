"""The code that a reader sees teaches: little of it only prints, draws or lays out a table.

Counted are the lines of code cells that are not folded (hide-input, hide-cell) and no exercise. A line only shows
where it belongs to a call of SHOWING whose value nobody uses, or to a loop or branch of nothing else.
"""

import ast
import re

import nbformat
import pytest
from conftest import ROOT

LABS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FOLDED = {"hide-input", "hide-cell", "solution", "exercise"}
SHOWING_MODULES = re.compile(r"^labsupport\.(plots|tables|gpu|([a-z_]+\.)?figures)$")
MOST = 0.15


def seen_cells(notebook):
    """The sources of the cells whose code a reader sees, magics as `pass`."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and not FOLDED & set(cell.metadata.get("tags", ())):
            yield re.sub(r"^[%!].*", "pass", cell.source, flags=re.MULTILINE)


def showing_names(sources):
    """print and pprint, and what the lab imports from where figures and tables are made."""
    imports = (node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    aliases = (alias for node in imports if SHOWING_MODULES.match(node.module) for alias in node.names)
    return {"print", "pprint", "display"} | {alias.asname or alias.name for alias in aliases}


def lines_that_show(nodes, names):
    """How many lines of these statements only show something."""
    return sum(_shows(node, names) for node in nodes)


def _shows(node, names):
    lines = node.end_lineno - node.lineno + 1
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return lines if getattr(node.value.func, "id", None) in names else 0
    inside = [each for field in ("body", "orelse", "handlers", "finalbody") for each in getattr(node, field, ())]
    if isinstance(node, ast.FunctionDef | ast.ClassDef) or not inside:
        return lines_that_show(inside, names)
    whole = all(_shows(each, names) == each.end_lineno - each.lineno + 1 for each in inside)
    return lines if whole else lines_that_show(inside, names)


def share_that_shows(sources):
    """The share of lines that only show something, 0 to 1, among lines that are not empty."""
    sources = list(sources)
    names = showing_names(sources)
    lines = sum(bool(line.strip()) for source in sources for line in source.splitlines())
    return sum(lines_that_show(ast.parse(source).body, names) for source in sources) / lines


@pytest.mark.parametrize("lab", LABS, ids=[lab.stem for lab in LABS])
def test_at_most_15_of_100_lines_only_show_something(lab):
    assert share_that_shows(seen_cells(nbformat.read(lab, 4))) <= MOST


def test_the_rule_counts_prints_figures_and_loops_of_them():
    lesson = "from labsupport.plots import loss_curves\nstep()\n"
    assert share_that_shows([lesson]) == 0
    assert share_that_shows([lesson, "print(1)\n"]) == 1 / 3
    assert share_that_shows([lesson, "loss_curves(\n    1,\n    2,\n)"]) == 4 / 6
    assert share_that_shows([lesson, "for a in b:\n    print(a)"]) == 2 / 4
    assert share_that_shows([lesson, "for a in b:\n    c(a)\n    print(a)"]) == 1 / 5


def test_a_folded_cell_and_an_exercise_are_not_seen():
    cells = [nbformat.v4.new_code_cell("print(1)", metadata={"tags": [tag]}) for tag in sorted(FOLDED)]
    cells.append(nbformat.v4.new_code_cell("%%ranks\nstep()"))
    assert list(seen_cells(nbformat.v4.new_notebook(cells=cells))) == ["pass\nstep()"]
