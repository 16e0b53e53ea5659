"""pyproject.toml, constraints.txt and environment.yml name the same versions."""

import re
import tomllib

import yaml


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of(lines):
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def test_the_three_files_agree(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [name for group in project["optional-dependencies"].values() for name in group]
    constraints = pins_of(
        line.strip() for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    environment = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    conda_pins = pins_of(next(entry["pip"] for entry in environment if isinstance(entry, dict)))

    names = {normal(re.match(r"[\w.-]+", line)[0]) for line in wanted}
    assert names == set(conda_pins), "environment.yml lists what pyproject.toml asks for"
    assert {name: constraints[name] for name in names} == conda_pins
    for name, version in pins_of(wanted).items():
        assert constraints[name] == version, name
    assert "python=3.11" in environment
    assert project["requires-python"] == ">=3.11,<3.12"


def test_the_running_versions_are_the_pinned_ones(root):
    from importlib.metadata import version

    constraints = pins_of((root / "constraints.txt").read_text().splitlines())
    for name in ("torch", "deepspeed", "transformers", "jupyter-book", "plotly", "nbmake"):
        assert version(name).partition("+")[0] == constraints[name], name
