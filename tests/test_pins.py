"""pyproject.toml names ranges, constraints.txt alone pins, and both say the same of Python and of every package."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from labsupport.machine import preflight, versions


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins(root):
    """{package: (version, marker)}, of every line of constraints.txt, each of which must be an exact pin."""
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = {}
    for requirement in map(Requirement, lines):
        (exact,) = requirement.specifier
        assert exact.operator == "==" and normal(requirement.name) not in found, requirement
        found[normal(requirement.name)] = Version(exact.version), requirement.marker
    return found


def asked_for(project):
    lines = [*project["dependencies"], *(name for group in project["optional-dependencies"].values() for name in group)]
    return [Requirement(line) for line in lines]


def test_every_package_that_is_asked_for_has_a_pin_within_its_range(project, pins):
    for requirement in asked_for(project):
        version, _ = pins[normal(requirement.name)]
        assert version in requirement.specifier, f"{requirement} and {version}"


def test_pyproject_leaves_a_notebooks_own_versions_alone(project):
    for requirement in asked_for(project):
        assert not any(part.operator in ("==", "===", "~=") for part in requirement.specifier), requirement


def test_every_installed_package_that_the_course_needs_is_pinned_and_is_the_pinned_one(project, pins):
    from importlib.metadata import distribution

    todo, seen = [(requirement.name, requirement.extras) for requirement in asked_for(project)], set()
    while todo:
        name, extras = todo.pop()
        if (normal(name), frozenset(extras)) in seen:
            continue
        seen.add((normal(name), frozenset(extras)))
        found = distribution(name)
        version, marker = pins[normal(name)]
        assert marker is None or marker.evaluate(), name
        assert Version(found.version).public == version.public, name
        if normal(name) == "torch":  # its CUDA libraries and triton are pinned by itself
            continue
        for requirement in map(Requirement, found.requires or []):
            if any(not requirement.marker or requirement.marker.evaluate({"extra": extra}) for extra in ["", *extras]):
                todo.append((requirement.name, requirement.extras))
    assert len(seen) > 150


def test_the_pythons_are_the_same_everywhere(root, project):
    python = SpecifierSet(project["requires-python"])
    assert [minor for minor in range(20) if f"3.{minor}" in python] == sorted(
        int(version.split(".")[1]) for version in preflight.PYTHONS
    )
    job = yaml.safe_load((root / ".github/workflows/cpu.yml").read_text())["jobs"]["test"]
    assert sorted(job["strategy"]["matrix"]["python"]) == sorted(preflight.PYTHONS)
    (tests,) = (step for step in job["steps"] if step.get("run") == "make test")
    assert tests["env"] == {"PYTHON": "python${{ matrix.python }}"}, "make alone would take the runner's newest"
    named = re.search(r"Python (.+?)[:.]?$", preflight.NEEDED)[1]
    assert sorted(re.split(", | or ", named)) == sorted(preflight.PYTHONS)


def test_the_versions_that_the_labs_call_tried_are_the_pinned_ones(pins):
    assert {name: str(pins[name][0]) for name in versions.TRIED} == versions.TRIED
    assert set(versions.TRIED) == {"torch", "deepspeed", "transformers"}


def test_conda_takes_the_same_packages_and_pins(root, project):
    environment = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    lines = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert lines == ["-c constraints.txt", f"-e .[{','.join(project['optional-dependencies'])}]"]
    python = next(entry for entry in environment if str(entry).startswith("python="))
    assert python.removeprefix("python=") in preflight.PYTHONS
