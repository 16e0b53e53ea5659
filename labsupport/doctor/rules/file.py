"""The file itself: what DeepSpeed's reader of Hjson takes or refuses, and other readers see otherwise."""

from labsupport.doctor.findings import ERROR, NOTE, PARSE, rule

READER = "runtime/tensor_parallel/init_utils.py, load_ds_config (hjson)"


@rule("not-a-dict", ERROR, "runtime/config.py, DeepSpeedConfig.__init__", PARSE)
def not_a_dict(case):
    if not isinstance(case.given, dict):
        yield (
            (),
            f"a DeepSpeed config is a dict, not {type(case.given).__name__}, and DeepSpeed ends in an error of "
            "Python's",
            "write a block of keys, {...}",
        )


@rule("duplicate-key", ERROR, "runtime/config_utils.py, dict_raise_error_on_duplicate_keys", PARSE)
def duplicate(case):
    for path in case.document.duplicates if case.document else ():
        yield (
            path,
            f"the key {path[-1]!r} stands twice in one block, which DeepSpeed refuses in a file",
            "keep one of them",
        )


@rule("nested-too-deep", ERROR, "hjson/decoder.py (recursion)", PARSE)
def too_deep(case):
    if case.document and case.document.too_deep:
        yield (), "the file is nested so deep that DeepSpeed's reader ends in a RecursionError", "flatten it"


@rule("number-too-large", ERROR, "hjson/decoder.py, scantfnns", PARSE)
def too_large(case):
    if case.document and case.document.unreadable:
        yield (
            (),
            f"DeepSpeed's reader ends in an error at a value of the file: {case.document.unreadable}",
            "write a smaller number",
        )


@rule("hjson", NOTE, READER)
def hjson(case):
    if case.document and case.document.syntax == "hjson":
        yield (
            (),
            "the file is Hjson (comments, other quotes or commas), which DeepSpeed reads and readers of plain "
            "JSON refuse, the Hugging Face Trainer among them",
            "write plain JSON (--fix does)",
        )


@rule("byte-order-mark", NOTE, "hjson/decoder.py, HjsonDecoder.raw_decode")
def bom(case):
    if case.document and case.document.bom:
        yield (
            (),
            "the file begins with a byte order mark, which DeepSpeed skips and json.load refuses",
            "save it as UTF-8 without one",
        )
