"""The commands on the set-up pages that name the repository: its address is known where the book is published."""

import os

from course.blocks.block import block

ADDRESS = "https://HOST/OWNER/REPOSITORY"  # what a reader of an unpublished book replaces

CLONE = """\
```bash
git clone {address} deepspeed-course && cd deepspeed-course
```
"""

# Not editable: a running kernel would not see it. Without a version, so that pip keeps the torch that is there.
NOTEBOOK_SERVICE = """\
```text
!git clone --quiet {address} deepspeed-course
%pip install --quiet ./deepspeed-course
%cd deepspeed-course/notebooks
import sys
!{{sys.executable}} -m labsupport.machine.ops
```
"""


@block
def clone_command():
    """Return the first command of the set-up, with this repository's address."""
    return CLONE.format(address=_address())


@block
def notebook_service_cell():
    """Return the cell that puts the course into a notebook service's own Python."""
    return NOTEBOOK_SERVICE.format(address=_address())


def _address():
    return os.environ.get("BOOK_REPOSITORY_URL") or ADDRESS
