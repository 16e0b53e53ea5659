"""The package reads like a table of contents: imports go one way, and the README's tree names what is there."""

import ast
import graphlib
import re

import pytest
from conftest import ROOT

PACKAGE = ROOT / "labsupport"
# From the bottom to the top: a module imports from its own line or from those before it, never from a later one.
FLOORS = [
    "wording errors cell_output arguments machine corpus palette plots tables",
    "doctor symptoms shapes launch records command_line",
    "config compare models",
    "settings runs",
    "trainable engine memory",
    "batches losses trainer checkpoint ranks step_time",
    "measure widgets faults",
    "deepspeed_trainer exercises gpu",
    "grading",
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}


def name_of(path):
    """labsupport/memory/planner.py is "memory.planner", and labsupport/memory/__init__.py is "memory"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(package):
    return {name_of(path): path for path in sorted(package.rglob("*.py")) if path != package / "__init__.py"}


def imports_of(source, modules):
    """The modules of the package that a source text imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "labsupport":
            base = node.module.partition(".")[2]
            for alias in node.names:  # `from labsupport.memory import planner` is the module, not the folder
                inner = f"{base}.{alias.name}".strip(".")
                found.add(inner if inner in modules else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("labsupport.")}
    return found & set(modules)


MODULES = modules_of(PACKAGE)
IMPORTS = {name: imports_of(path.read_text(), MODULES) for name, path in MODULES.items()}


def upward(imports):
    """The imports against the order, as (module, what it imports)."""

    def floor(name):
        return FLOOR_OF[name.partition(".")[0]]

    return [(name, other) for name, others in imports.items() for other in others if floor(other) > floor(name)]


def loop_in(imports):
    """A list of modules that import each other in a loop, or None."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_every_module_and_folder_has_its_place_in_the_order():
    assert {name.partition(".")[0] for name in MODULES} == set(FLOOR_OF)


def test_no_import_goes_up():
    assert upward(IMPORTS) == []


def test_no_modules_import_each_other_in_a_loop():
    assert loop_in(IMPORTS) is None


def test_a_wrong_import_would_be_seen():
    assert upward(IMPORTS | {"errors": imports_of("def late():\n    from labsupport.memory import planner", MODULES)})
    assert loop_in(IMPORTS | {"errors": {"config"}})
    assert imports_of("import labsupport.config\nfrom labsupport import settings", MODULES) == {"config", "settings"}


@pytest.mark.parametrize("path", sorted(PACKAGE.iterdir()), ids=lambda path: path.name)
def test_the_readme_tree_names_what_is_there_with_a_line_each(path):
    if path.name.startswith(("__", ".")):
        pytest.skip("Python's own")
    tree = (ROOT / "README.md").read_text().partition("## The folders")[2]
    assert re.search(rf"^ +{re.escape(path.name)}/?  +\S", tree, re.MULTILINE), f"the tree has no line for {path.name}"


def test_the_readme_tree_names_nothing_that_is_gone():
    tree = re.search(r"## The folders\n+```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    inside = [line.split()[0].strip("/") for line in tree.splitlines() if line.startswith("    ")]
    assert inside and all((PACKAGE / name).exists() for name in inside), inside
