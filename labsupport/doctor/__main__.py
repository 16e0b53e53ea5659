"""The config doctor on the command line.

python -m labsupport.doctor ds_config.json
python -m labsupport.doctor --world-size 8 --gpu h100 --explain configs/
python -m labsupport.doctor --log train.log        known problems in what a run wrote, the first cause first
"""

import json
import sys
from pathlib import Path

from tabulate import tabulate

import labsupport.doctor.rules  # noqa: F401 - registers them
from labsupport.command_line import OneSentenceParser, exit_status
from labsupport.doctor.accelerate_file import config_of
from labsupport.doctor.case import Case
from labsupport.doctor.explain import explain
from labsupport.doctor.findings import NOTE, SEVERITIES, found_in
from labsupport.doctor.known import known
from labsupport.doctor.mend import mended, write_beside
from labsupport.doctor.reading import read_document
from labsupport.errors import ConfigError, LabError
from labsupport.machine.cards import card
from labsupport.symptoms.logs import report

SUFFIXES = (".json", ".hjson", ".yaml", ".yml")
PASSED_BY = ("node_modules", "__pycache__")


def main(arguments=None):
    """Look at the files that the command line names and return the exit status.

    0 where nothing is worse than a note, 1 for an error, silent or cost finding, 2 for what cannot be read. Of a log:
    1 where the run ended by an error.
    """
    return exit_status(run, arguments)


def run(arguments=None):
    """Do what the command line asks for and return the exit status."""
    options = parse(arguments)
    if options.log:
        return report(options.log, options.json)
    known()  # learnt before anything is printed
    results, unreadable = [], []
    for path in [file for named in options.files for file in files_of(named)]:
        try:
            results.append(look_at(path, options))
        except LabError as error:
            unreadable.append(error)
    try:
        show(results, options)
        for error in unreadable:
            print(f"error: {error}", file=sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:  # head has seen enough
        sys.stderr.close()
    worst = {finding.severity for result in results for finding in result["findings"]}
    return 2 if unreadable else int(bool(worst - {NOTE}))


def parse(arguments=None):
    """Return the program's arguments; raises LabError for one that it does not know."""
    parser = OneSentenceParser(
        prog="python -m labsupport.doctor",
        description="Say what DeepSpeed will make of a ds_config: what it refuses, ignores, changes or pays for.",
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="a ds_config, an accelerate config in YAML, a folder, or - for stdin")
    add("--world-size", type=int, metavar="N", help="ranks that it is to run on")
    add("--gpu", metavar="NAME", help="the card, for example h100")
    add("--accelerator", choices=("cpu", "cuda"), help="what it is to run on (cuda with --gpu)")
    add("--parameters", type=float, metavar="P", help="of the model, for example 7e9")
    add("--hf", action="store_true", help='the Hugging Face Trainer hands it over, and fills in "auto"')
    add("--explain", action="store_true", help="print what is in force for every key, and where it comes from")
    add("--fix", action="store_true", help="write what can be mended into NAME.fixed.json beside the file")
    add("--log", metavar="FILE", help="say what is known of the errors in the log of a run, in place of FILE...")
    add("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    if bool(options.files) == bool(options.log):
        raise LabError("Name the configs to look at, or one log with --log.")
    for name, value in (("--world-size", options.world_size), ("--parameters", options.parameters)):
        if value is not None and not 1 <= value < 1e18:
            raise LabError(f"{name} is {value}: give a number of at least 1.")
    options.gpu = card(options.gpu) if options.gpu else None
    return options


def files_of(named):
    """Return the files that an argument names: itself, or the configs in a folder; raises LabError for none."""
    if named == "-" or not Path(named).is_dir():
        return [named]
    found = [
        path
        for path in sorted(Path(named).rglob("*"))
        if path.suffix in SUFFIXES and not any(part in PASSED_BY or part.startswith(".") for part in path.parts[:-1])
    ]
    configs = [str(path) for path in found if _is_config(path)]
    if not configs:
        raise LabError(f"The folder {named} holds no ds_config and no accelerate config: name a file.")
    return configs


def _is_config(path):
    """Whether a file of a folder is one to look at: it holds a key that says so, or its name does."""
    try:
        document = read_document(path)
    except LabError:
        return any(word in path.name.lower() for word in ("ds_", "deepspeed", "zero"))
    if not isinstance(document.value, dict):
        return False
    telling = (
        {"deepspeed_config"} if document.syntax == "yaml" else {*known()["top_level"]} - {"optimizer", "scheduler"}
    )
    return bool(telling & set(document.value))


def look_at(path, options):
    """Return what was found in one file, as {"file", "findings", "explained", "fixed", "mended"}."""
    document, ranks, hugging_face = read_document(path), options.world_size, options.hf
    if document.syntax == "yaml":
        document, ranks_named = config_of(document)
        ranks, hugging_face = ranks or ranks_named, True
    accelerator = options.accelerator or ("cuda" if options.gpu else None)
    parameters = int(options.parameters) if options.parameters else None
    about = {"world_size": ranks, "accelerator": accelerator, "gpu": options.gpu, "parameters": parameters,
             "hugging_face": hugging_face, "document": document}  # fmt: skip
    case = Case(document.value, **about)
    result = {"file": str(path), "findings": found_in(case), "explained": explain(case) if options.explain else None,
              "fixed": None, "mended": []}  # fmt: skip
    if options.fix:
        if str(path) == "-" or document.syntax == "yaml":
            raise ConfigError(f"--fix writes beside a ds_config, and {document.name} is none: name a JSON file.")
        config, result["mended"] = mended(document.value, **about)
        if result["mended"]:
            result["fixed"] = str(write_beside(path, config))
    return result


def show(results, options):
    """Print what was found, for people or as JSON."""
    if options.json:
        print(json.dumps([_as_json(result) for result in results], indent=1))
        return
    for result in results:
        for finding in result["findings"]:
            print(finding.line_of(result["file"]))
        print(f"{result['file']}: {_counts(result['findings'])}.")
        if result["explained"]:
            print(
                tabulate(
                    [_row(each) for each in result["explained"]], ("key", "in force", "from"), disable_numparse=True
                )
            )
        if options.fix:
            count = len(result["mended"])
            print(
                f"{count} mended: {result['fixed']}"
                if count
                else "Nothing that has one obvious way out: no file written."
            )


def _counts(findings):
    counts = [(sum(each.severity == severity for each in findings), severity) for severity in SEVERITIES]
    many = {"error": "errors", "note": "notes"}
    words = [f"{count} {many.get(word, word) if count > 1 else word}" for count, word in counts if count]
    return ", ".join(words) or "nothing to say"


def _row(setting):
    value = setting.value
    text = "true" if value is True else "false" if value is False else "none" if value is None else str(value)
    return setting.key, text, setting.origin


def _as_json(result):
    findings = [
        {name: each for name, each in finding._asdict().items() if name != "keys"} for finding in result["findings"]
    ]
    entry = {"file": result["file"], "findings": findings}
    if result["explained"] is not None:
        rows = [each._asdict() for each in result["explained"]]
        entry["explained"] = [
            row | {"value": row["value"] if _is_plain(row["value"]) else str(row["value"])} for row in rows
        ]
    if result["fixed"]:
        entry["fixed"] = result["fixed"]
    return entry


def _is_plain(value):
    return isinstance(value, bool | int | float | str | list | None)


if __name__ == "__main__":
    sys.exit(main())
