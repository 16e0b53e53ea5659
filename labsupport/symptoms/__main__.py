"""Find known problems in the log of a run.

python -m labsupport.symptoms train.log            cause and fix of each, the first cause first
python -m labsupport.symptoms --json train.log
"""

import sys

from labsupport.command_line import OneSentenceParser, exit_status
from labsupport.symptoms.logs import report


def main(arguments=None):
    """Run the command; return 0, 1 where the run ended by an error, 2 for a log that cannot be read."""
    return exit_status(run, arguments)


def run(arguments=None):
    """Do what the command line asks for and return the exit status."""
    parser = OneSentenceParser(prog="python -m labsupport.symptoms", description=__doc__.split("\n")[0])
    parser.add_argument("log", metavar="FILE", help="what a run wrote; - reads standard input")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    options = parser.parse_args(arguments)
    return report(options.log, options.json)


if __name__ == "__main__":
    sys.exit(main())
