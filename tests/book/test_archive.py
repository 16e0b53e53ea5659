"""The course as a zip: what a commit holds, in a folder of its own, and on the built site."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import HTML, ROOT, needs_book

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course import archive


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names_in(zip_file):
    with zipfile.ZipFile(zip_file) as opened:
        return {name for name in opened.namelist() if not name.endswith("/")}


def in_the_folder(*names):
    return {f"{archive.FOLDER}/{name}" for name in names}


@pytest.fixture
def folder(tmp_path):
    """A folder with a file of the course, one of the reader's own, and what making the course leaves behind."""
    for name in ("labs/one.ipynb", "own notes.txt", ".venv/python", "_build/index.html", "x.egg-info/y", ".x_cache/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    return tmp_path


@pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")
def test_with_git_the_zip_holds_the_commit(folder):
    git(folder, "init", "--quiet")
    git(folder, "add", "labs")
    git(folder, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "one")
    assert names_in(archive.write_archive(folder, folder / "_build")) == in_the_folder("labs/one.ipynb")


def test_without_git_it_holds_the_folder(folder, monkeypatch):
    inside = in_the_folder("labs/one.ipynb", "own notes.txt")
    assert names_in(archive.write_archive(folder, folder / "_build")) == inside
    monkeypatch.setenv("PATH", "/nowhere")
    assert names_in(archive.write_archive(folder, folder / "_build")) == inside


@needs_book
def test_the_built_site_has_the_zip_with_every_tracked_file():
    page = (HTML / "book" / "setup.html").read_text()
    (file,) = HTML.glob(f"_downloads/*/{archive.FOLDER}.zip")
    assert f'href="../{file.relative_to(HTML)}"' in page
    assert in_the_folder("Makefile", "labsupport/trainer.py") <= names_in(file)
    with zipfile.ZipFile(file) as opened:
        commit = opened.comment.decode()
    if not commit:
        pytest.skip("the book was built without git")
    tracked = git(ROOT, "ls-tree", "-r", "--name-only", "-z", commit).split("\0")[:-1]
    assert names_in(file) == in_the_folder(*tracked)
