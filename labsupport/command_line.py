"""What the programs of the package share: mistakes on the command line in one sentence, results in files."""

import argparse
import json
import os
import sys
import time

from labsupport.errors import LabError
from labsupport.records import write_whole


class OneSentenceParser(argparse.ArgumentParser):
    """An argument parser whose mistakes are LabErrors, like everyone else's."""

    def error(self, message):
        raise LabError(f"{message}; see --help.")


def exit_status(run, arguments=None, stopped="Stopped by Ctrl-C."):
    """Return the exit status that run(arguments) returns; that of a LabError, told in one sentence; 130 for Ctrl-C."""
    try:
        return run(arguments)
    except LabError as error:
        if int(os.environ.get("RANK", "0")) != error.told_by:
            # What goes wrong on all ranks, one tells for all: the launcher stops the others within a second.
            time.sleep(3)
        line = "\n" if error.told_by else ""  # the bar of a rank 0 that is gone leaves its line open
        print(f"{line}error: {error}", file=sys.stderr, flush=True)
        return error.status
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr, flush=True)
        return 130


def write_json(path, result):
    """Write the result whole or not at all; raises LabError where the path cannot be written."""
    try:
        write_whole(path, json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise LabError(f"Cannot write the result to {path}: {error.strerror.lower()}; choose another file.") from None
