"""The repository's face: licence, citation, changelog and the contributor's page agree with what is here."""

import hashlib
import re
import subprocess
import sys
import tomllib

import yaml
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of the text as apache.org has it


def test_the_licence_is_the_one_that_pyproject_names():
    assert PROJECT["license"] == "Apache-2.0"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_the_citation_is_valid_and_names_this_version():
    file = ROOT / "CITATION.cff"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format", file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    citation = yaml.safe_load(file.read_text())
    assert citation["title"] == yaml.safe_load((ROOT / "_config.yml").read_text())["title"]
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_changelog_begins_with_what_is_unreleased_and_then_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    assert len(releases) == text.count("\n## ")
    assert releases[0] == ("Unreleased", "") and releases[1][0] == PROJECT["version"]
    assert all(date for _, date in releases[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def code_of(text):
    """What a Markdown text shows as code: its `spans` and its indented lines."""
    return re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)


def wrong_names(text):
    """The paths, targets of make and names within a module that a text names and that are not here."""
    words = [word for code in code_of(text) for word in code.partition("#")[0].split()]
    paths = {word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]+)*(/|\.\w+|/\w+)", word)}
    made = {path for path in paths if path.startswith(".venv/")}
    targets = {target for code in code_of(text) for target in re.findall(r"^make ([\w-]+)", code)}
    makefile = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    names = re.findall(r"`(\w+)` (?:of|in) `([\w/]+\.py)`", text)
    return (
        sorted(path for path in paths - made if not (ROOT / path).exists())
        + sorted(targets - set(makefile))
        + [name for name, path in names if not re.search(rf"^(def )?{name}\b", (ROOT / path).read_text(), re.MULTILINE)]
    )


def test_what_the_contributors_page_names_is_here():
    assert wrong_names((ROOT / "CONTRIBUTING.md").read_text()) == []


def test_a_wrong_name_on_the_contributors_page_would_be_seen():
    text = "Copy `labsupport/gone.py`; `gone` of `labsupport/records.py`.\n\n    make gone\n    pytest tests/gone"
    assert wrong_names(text) == ["labsupport/gone.py", "tests/gone", "gone", "gone"]
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(re.findall(r"`(\w+)` (?:of|in) `([\w/]+\.py)`", page)) == 3 and page.count("make ") >= 5
