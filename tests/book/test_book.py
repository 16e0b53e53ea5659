"""The book's build: a lab that fails must fail it, and the pages keep what the labs printed."""

import json
import re
import shutil
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.slow

HEAD = "**Goal:** to be built.\n\n**Time:** 1 minute."
GOOD, BAD = "print('seven times six is', 7 * 6)", "assert 1 == 2, 'planted'"


@pytest.fixture
def small_course(root, tmp_path):
    """A course of one page and one lab with the real settings; call it with the lab's code."""
    shutil.copy(root / "_config.yml", tmp_path)
    shutil.copy(root / "constraints.txt", tmp_path)
    shutil.copytree(root / "book", tmp_path / "book", ignore=shutil.ignore_patterns("*.md", "configs"))
    (tmp_path / "book" / "intro.md").write_text("# A small course\n")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/01_lab\n- file: notebooks/02_lab\n"
    )
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "labsupport").mkdir()

    def write(code):
        for name, source in (("01_lab", GOOD), ("02_lab", code)):
            cells = [nbformat.v4.new_markdown_cell(f"# {name}\n\n{HEAD}"), nbformat.v4.new_code_cell(source)]
            kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
            nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / f"notebooks/{name}.ipynb")
        return tmp_path

    return write


def build(folder, root, *options):
    command = [sys.executable, str(root / "book" / "build.py"), "--root", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def clock(page):
    return re.search(r"clock (\d{19})", page)[1]


def test_a_failing_cell_fails_the_build(root, small_course):
    folder = small_course(BAD)
    done = build(folder, root)
    assert done.returncode != 0
    assert "planted" in done.stdout and "error: the book was not built" in done.stderr
    assert not (folder / "_build" / "html" / "index.html").exists()


def test_a_failing_cell_fails_jupyter_book_alone_too(root, small_course):
    folder = small_course(BAD)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(folder), "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and "planted" in done.stdout + done.stderr


def test_labs_run_once_and_their_outputs_are_on_the_pages(root, small_course):
    folder = small_course("import os, time; print('clock', time.time_ns())")
    assert build(folder, root).returncode == 0
    page = folder / "_build" / "html" / "notebooks" / "02_lab.html"
    first = page.read_text()
    assert clock(first) == clock((folder / "_build" / "executed" / "02_lab.ipynb").read_text()), "run once, by nbmake"
    assert "seven times six is 42" in (page.parent / "01_lab.html").read_text()
    run = json.loads((folder / "_build" / "executed" / "run.json").read_text())
    assert f"Run with DeepSpeed {run['deepspeed']} on {run['date']}, commit {run['commit']}: passed." in first
    assert run["deepspeed"] == version("deepspeed") and datetime.fromisoformat(run["date"])
    assert build(folder, root).returncode == 0
    assert clock(page.read_text()) == clock(first), "unchanged labs are not run again"
    (folder / "labsupport" / "new.py").write_text("")
    assert build(folder, root).returncode == 0
    assert clock(page.read_text()) != clock(first), "a changed package runs them"


def test_the_repositorys_address_comes_from_the_environment(root, small_course, monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://example.org/someone/course")
    monkeypatch.setenv("BOOK_BASE_URL", "https://someone.example.org/course/")
    folder = small_course(GOOD)
    assert build(folder, root).returncode == 0
    page = (folder / "_build" / "html" / "notebooks" / "01_lab.html").read_text()
    assert 'href="https://example.org/someone/course"' in page
    address = "https://someone.example.org/course"
    assert f'rel="canonical" href="{address}/notebooks/01_lab.html"' in page
    assert f'property="og:image" content="{address}/_static/preview.png"' in page
    assert (folder / "_build" / "html" / "_static" / "preview.png").exists()
    assert 'href="https://example.org/someone/course/edit/main/notebooks/01_lab.ipynb"' in page
    sitemap = (folder / "_build" / "html" / "sitemap.xml").read_text()
    pages = [f"{address}/{page}.html" for page in ("book/intro", "notebooks/01_lab", "notebooks/02_lab")]
    assert re.findall("<loc>(.*?)</loc>", sitemap) == pages
    assert f"Sitemap: {address}/sitemap.xml" in (folder / "_build" / "html" / "robots.txt").read_text()
    assert f'href="{address}/search.html"' in (folder / "_build" / "html" / "404.html").read_text()


def test_a_broken_link_fails_the_build(root, small_course):
    folder = small_course(GOOD)
    (folder / "book" / "intro.md").write_text("# A small course\n\n[nowhere](missing_page.md)\n")
    done = build(folder, root)
    assert done.returncode != 0 and "missing_page.md" in done.stdout + done.stderr
