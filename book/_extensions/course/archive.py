"""The course as a zip, for readers without git: what the last commit holds, in a folder of its own."""

import fnmatch
import os
import subprocess
import zipfile
from pathlib import Path

from sphinx.util import logging

FOLDER = "deepspeed-course"
MADE_HERE = (".git", ".venv", "_build", "__pycache__", "*.egg-info", ".*_cache", ".ipynb_checkpoints", ".hypothesis")
logger = logging.getLogger(__name__)


def setup(app):
    """Register the step: the zip is there before book/setup.md, which links to it, is read."""
    app.connect("config-inited", lambda app, _config: write_archive(Path(app.srcdir), Path(app.srcdir, "_build")))


def write_archive(root, folder):
    """Write the zip of the course at `root` into a folder and return its path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{FOLDER}.zip"
    if not _git_archive(root, path):
        logger.info(f"Without git, {path.name} holds the files of this folder as they are.")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for file in _files(root):
                archive.write(file, Path(FOLDER, file.relative_to(root)))
    return path


def _git_archive(root, path):
    command = ["git", "archive", "--format=zip", f"--prefix={FOLDER}/", f"--output={path}", "HEAD"]
    try:
        return subprocess.run(command, cwd=root, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _files(root):
    """The files below a folder, but for what was made there."""
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not any(fnmatch.fnmatch(name, pattern) for pattern in MADE_HERE)]
        yield from (Path(folder, name) for name in files)
