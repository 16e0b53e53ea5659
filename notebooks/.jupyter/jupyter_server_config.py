"""How `make lab` serves the labs: from the course's folder, so that their links to its pages lead somewhere."""

from pathlib import Path

c = get_config()  # noqa: F821  Jupyter gives it
c.ServerApp.root_dir = str(Path(__file__).resolve().parents[2])
c.LabApp.default_url = "/lab/tree/notebooks"
