"""Files of every kind: read as DeepSpeed reads them, with the place of each key, or refused in one sentence."""

import base64
import json
import time

import hjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labsupport.doctor.diagnosis import diagnose
from labsupport.doctor.reading import document_of, places, read_document
from labsupport.errors import ConfigError

many = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def paths_of(value, path=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from paths_of(each, (*path, key))


@many
@given(st.dictionaries(st.text(max_size=8), VALUE, max_size=4), st.sampled_from([None, 1]))
def test_json_is_read_as_hjson_reads_it_and_every_key_has_its_place(value, indent):
    text = json.dumps(value, indent=indent)
    document = document_of(text.encode())
    assert document.value == hjson.loads(text) and document.syntax == "json"
    assert repr(document.value) == repr(dict(hjson.loads(text, object_pairs_hook=dict))), "2.0 in a file is 2"
    assert set(places(text)) == set(paths_of(value))


@many
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_end_in_a_traceback(content):
    try:
        document = document_of(content)
    except ConfigError as error:
        assert "\n" not in str(error).strip()
        return
    for finding in diagnose(document.value, document=document):
        assert finding.line >= 1 and finding.column >= 1


@many
@given(VALUE)
def test_no_value_ends_in_a_traceback(value):
    assert all(finding.in_words for finding in diagnose(value, 2, "cpu"))
    assert all(finding.in_words for finding in diagnose(value, hugging_face=True))


HJSON = """# for eight cards
{
  // the batch
  train_batch_size: 8
  'fp16': {enabled: true,},   /* half
  precision */ "zero_optimization": {
    stage: 3
    offload_param: {device: cpu
    }
  }
  text: quoteless: with, commas } and # no comment
  list: [1, 2
    three
  ]
  many: '''
    lines {
    '''
}
"""


def test_hjson_is_read_with_its_places():
    document = document_of(HJSON.encode())
    assert document.value == hjson.loads(HJSON) and document.syntax == "hjson"
    found = places(HJSON)
    assert set(found) == set(paths_of(document.value))
    assert found["train_batch_size",] == (4, 3) and found["zero_optimization", "offload_param", "device"] == (8, 21)
    assert found["many",] == (15, 3)


def test_the_outermost_braces_can_be_left_out():
    text = "train_batch_size: 8\nfp16: {\n  enabled: true\n}\n"
    document = document_of(text.encode())
    assert document.value == {"train_batch_size": 8, "fp16": {"enabled": True}}
    assert document.place(("fp16", "enabled")) == (3, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"\xff\xfe{\x00}\x00", "UTF-16"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b"\x89PNG\x00\x00", "binary"),
        (b'{"a": "\xe9"}', "not UTF-8"),
        (b'{"train_batch_size": 8, "fp16": {"enab', "line 1, column 34"),  # a file that is being written
        (b'{"a": ]}', "not valid"),
        (b"[" * 5000, "not valid|nested too deep"),
        (b'{"a": ' * 100_000, "not valid|nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits|large"),
        (b"x" * (2**22 + 1), "larger than 4 MiB"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_no_reader_takes_is_one_sentence(content, words):
    with pytest.raises(ConfigError, match=words) as caught:
        document_of(content)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_byte_order_mark_is_skipped_as_deepspeed_skips_it():
    document = document_of('\ufeff{"train_batch_size": 8}'.encode())
    assert document.value == {"train_batch_size": 8} and document.bom
    assert document.place(("train_batch_size",)) == (1, 2)


def test_a_config_in_base64_is_read():
    packed = base64.urlsafe_b64encode(b'{"train_batch_size": 8, "bf16": {"enabled": true}}')
    assert document_of(packed).value["train_batch_size"] == 8


def test_keys_that_stand_twice_are_found_wherever_they_are():
    document = document_of(b'{"a": {"b": 1, "b": 2}, "b": 3, "a": 4}')
    assert set(document.duplicates) == {("a",), ("a", "b")}


@pytest.mark.parametrize("depth", [100, 400, 500, 900])
def test_depth_is_taken_as_hjson_takes_it(depth):
    text = '{"train_batch_size": 1, "_": ' + "[" * depth + "]" * depth + "}"
    try:
        hjson.loads(text)
        gives_up = False
    except RecursionError:
        gives_up = True
    document = document_of(text.encode())
    codes = {finding.code for finding in diagnose(document.value, document=document)}
    assert ("nested-too-deep" in codes) == gives_up


def megabyte(indent=None):
    zero = {f"key_{number}": [number, 2.5, True, None, "text"] for number in range(2**20 // 60)}
    return json.dumps({"train_batch_size": 8, "zero_optimization": zero}, indent=indent).encode()


@pytest.mark.parametrize("content", [megabyte(), b"\n" * 2**20 + b"{}", b'{"_": "' + b"a" * 2**20 + b'"}'], ids=len)
def test_a_megabyte_takes_less_than_a_second(content):
    diagnose({"train_batch_size": 1})
    start = time.process_time()
    document = document_of(content)
    found = diagnose(document.value, document=document)
    assert time.process_time() - start < 1
    assert len(found) < 1000


def test_files_that_are_none_are_one_sentence(tmp_path):
    for wrong in (tmp_path, tmp_path / "missing.json", "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError, match="Cannot read"):
            read_document(wrong)
