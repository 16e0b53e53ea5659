"""The package that pip builds holds every file that the labs need, from every folder."""

import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    """The names of the files in the wheel, and the labsupport that it was built from, with a subpackage more."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(root / "labsupport", folder / "labsupport", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, folder)
    for name in ("deep/__init__.py", "deep/er/__init__.py", "deep/er/shown.js", "deep/er/shown.css"):
        (folder / "labsupport" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "labsupport" / name).touch()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist()), folder


def test_every_file_of_the_package_is_in_it(built):
    names, folder = built
    files = {str(path.relative_to(folder)) for path in folder.glob("labsupport/**/*") if path.is_file()}
    assert "labsupport/deep/er/shown.js" in files and any(name.endswith(".json") for name in files)
    assert files - names == set()


def test_nothing_else_is_in_it(built):
    names, _ = built
    assert {name.partition("/")[0] for name in names} == {"labsupport", "labsupport-0.1.0.dist-info"}
