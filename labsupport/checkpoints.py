"""Looking at a checkpoint folder before DeepSpeed does, which says nothing useful about a wrong path or tag."""

from pathlib import Path

from labsupport.errors import CheckpointError


def checked_tag(path, tag=None, universal=False):
    """Return the tag to load from the checkpoint folder `path`; raises CheckpointError where there is none."""
    folder = Path(path)
    if not folder.exists():
        raise CheckpointError(f"There is no checkpoint at {path}: give the folder that save_checkpoint wrote.")
    if not folder.is_dir():
        raise CheckpointError(f"The checkpoint {path} is a file: give the folder that holds the file `latest`.")
    tags = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if tag is None:
        latest = folder / ("latest_universal" if universal else "latest")
        if not latest.is_file():
            raise CheckpointError(
                f"{path} holds no file `{latest.name}`, so it names no checkpoint: "
                f"give a tag{', one of ' + ', '.join(tags) if tags else ' or another folder'}."
            )
        tag = latest.read_text().strip()
    if tag not in tags:
        raise CheckpointError(f"{path} holds no checkpoint {tag!r}: it holds {', '.join(tags) or 'none'}.")
    return tag


def require_possible_folder(path):
    """Raise CheckpointError where the folder `path` cannot come to be, because a file stands in its way."""
    folder = Path(path)
    for part in (folder, *folder.parents):
        if part.exists():
            if not part.is_dir():
                raise CheckpointError(
                    f"The checkpoint folder {path} cannot be made, because {part} is a file: choose another."
                )
            return
