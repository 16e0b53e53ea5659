"""Look at checkpoints and after them, from the command line.

python -m labsupport.checkpoint inspect DIR            what is in it, without running code that it may hold
python -m labsupport.checkpoint verify DIR             is every file what was saved?
python -m labsupport.checkpoint prune DIR --keep 3     remove all but the newest 3
python -m labsupport.checkpoint convert DIR OUT        DeepSpeed's universal form, for its other programs
python -m labsupport.checkpoint export DIR OUT         the weights as safetensors, for transformers
"""

import argparse
import sys

from tabulate import tabulate

from labsupport.arguments import require_positive_integer
from labsupport.checkpoint.contents import contents_of
from labsupport.checkpoint.convert import convert
from labsupport.checkpoint.export import DTYPES, export
from labsupport.checkpoint.tags import prune, read_latest, tag_to_load, tags_of
from labsupport.checkpoint.verify import verify
from labsupport.command_line import OneSentenceParser, exit_status
from labsupport.errors import CheckpointError
from labsupport.wording import mebibytes


def main(arguments=None):
    """Run the command and return its exit status: 0, 1 for a damaged checkpoint, 2 for a mistake told in a sentence."""
    return exit_status(run, arguments)


def run(arguments=None):
    """Do what the command line asks for and return the exit status."""
    options = _parser().parse_args(arguments)
    tags = tags_of(options.folder)
    if options.tag is not None and options.tag not in tags:
        raise CheckpointError(f"{options.folder} holds no checkpoint {options.tag!r}: it holds {', '.join(tags)}.")
    return options.do(options, [options.tag] if options.tag else tags)


def _parser():
    parser = OneSentenceParser(prog="python -m labsupport.checkpoint", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(do, what, tag="this one alone (default: all)"):
        added = commands.add_parser(do.__name__.strip("_"), help=what, description=what)
        added.set_defaults(do=do)
        added.add_argument("folder", metavar="DIR", help="the folder that holds the tags and the file `latest`")
        added.add_argument("--tag", help=tag)
        return added

    command(_inspect, "say what is in it, without running code that it may hold")
    command(_verify, "read every file and hold it against the manifest")
    pruning = command(_prune, "remove all but the newest checkpoints", argparse.SUPPRESS)
    pruning.add_argument("--keep", type=int, required=True, metavar="K", help="how many stay")
    converting = command(_convert, "write DeepSpeed's universal form", "which one (default: the latest)")
    exporting = command(_export, "write the weights as safetensors", "which one (default: the latest)")
    for each in (converting, exporting):
        each.add_argument("target", metavar="OUT", help="a new folder")
    exporting.add_argument("--dtype", choices=tuple(DTYPES), help="default: as the optimizer keeps them")
    exporting.add_argument("--file-gb", type=float, default=5.0, metavar="GB", help="the largest file, in 1e9 bytes")
    exporting.add_argument("--adapter", action="store_true", help="what a LoRA adapter has trained alone")
    return parser


def _inspect(options, tags):
    folder = options.folder
    latest = read_latest(folder)
    for tag in tags:
        found = contents_of(f"{folder}/{tag}")
        print(
            f"{tag}{', the latest' if tag == latest else ''}: step {found.step}, stage {found.stage} on {found.ranks} "
            f"ranks, {found.precision}, DeepSpeed {found.deepspeed}, {mebibytes(found.total_bytes)}, "
            f"{'with' if found.vouched_for else 'without'} a manifest"
        )
        sizes = {}
        for _, role, rank, size in found.files:
            sizes.setdefault(role, {}).setdefault(rank, []).append(size)
        rows = [
            (role, f"rank {rank}", len(of_rank), mebibytes(sum(of_rank)))
            for role, ranks in sizes.items()
            for rank, of_rank in sorted(ranks.items())
        ]
        print(tabulate(rows, ("what", "written by", "files", "size"), colalign=("left", "left", "right", "right")))
    print("The .pt files are pickles: loading them runs code that they hold. Load only what you trust.")
    return 0


def _verify(options, tags):
    damaged = False
    for tag in tags:
        found = verify(f"{options.folder}/{tag}")
        speed = f"{mebibytes(found.read_bytes)} read in {found.seconds:.1f} s"
        damaged = damaged or bool(found.problems)
        if found.problems:
            print(f"{tag}: DAMAGED, {speed}")
            print("\n".join(f"  {problem}" for problem in found.problems))
        elif found.manifest:
            print(f"{tag}: every file is what was saved, {speed}")
        else:
            print(
                f"{tag}: no file is damaged, {speed}; without a manifest nobody can say whether one is missing, "
                "swapped or from another save"
            )
    return 1 if damaged else 0


def _prune(options, _):
    require_positive_integer("--keep", options.keep)
    print(f"Removed {', '.join(prune(options.folder, options.keep)) or 'nothing'}.")
    return 0


def _convert(options, _):
    folder = _one(options)
    convert(folder, options.target)
    print(f'{folder} is in {options.target}: load it with "checkpoint": {{"load_universal": true}}.')
    return 0


def _export(options, _):
    if options.file_gb <= 0:
        raise CheckpointError(f"--file-gb is {options.file_gb}: a file needs some room; leave it out for 5.")
    places = export(_one(options), options.target, options.dtype, options.file_gb * 1e9, adapter=options.adapter)
    print(f"{len(places)} tensors in {len(set(places.values()))} files in {options.target}.")
    return 0


def _one(options):
    """The folder of the tag that was asked for, whole."""
    tag = tag_to_load(options.folder, options.tag)
    folder = f"{options.folder}/{tag}"
    if problems := verify(folder).problems:
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems)}.")
    return folder


if __name__ == "__main__":
    sys.exit(main())
