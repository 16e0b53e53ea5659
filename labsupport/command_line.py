"""What the programs of the package share: mistakes on the command line in one sentence, results in files."""

import argparse
import json

from labsupport.errors import LabError
from labsupport.records import write_whole


class OneSentenceParser(argparse.ArgumentParser):
    """An argument parser whose mistakes are LabErrors, like everyone else's."""

    def error(self, message):
        raise LabError(f"{message}; see --help.")


def write_json(path, result):
    """Write the result whole or not at all; raises LabError where the path cannot be written."""
    try:
        write_whole(path, json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise LabError(f"Cannot write the result to {path}: {error.strerror.lower()}; choose another file.") from None
