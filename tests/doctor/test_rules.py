"""What each rule says, against what the real DeepSpeed does with a config that the rule finds something in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from truths import ELSEWHERE, TRUTHS

from labsupport.doctor.diagnosis import diagnose
from labsupport.doctor.findings import ERROR, INITIALIZE, PARSE, RULES, STEP
from labsupport.doctor.known import known
from labsupport.doctor.reading import document_of

HERE = Path(__file__).parent
CASES = [pytest.param(code, number, id=f"{code}-{number}") for code in TRUTHS for number in range(len(TRUTHS[code]))]


@pytest.fixture(scope="module")
def deepspeed_did(tmp_path_factory):
    """{code: what DeepSpeed did with each case}, in one process of its own."""
    target = tmp_path_factory.mktemp("doctor") / "saw.json"
    command = [sys.executable, HERE / "deepspeed_does.py", target]
    done = subprocess.run(command, env=os.environ | {"DS_ACCELERATOR": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(target.read_text())


def findings_of(truth):
    config, document = truth.config, None
    if isinstance(config, str):
        document = document_of(config.encode())
        config = document.value
    return diagnose(config, document=document, **{"world_size": 1, **truth.options})


@pytest.mark.slow
@pytest.mark.parametrize(("code", "number"), CASES)
def test_deepspeed_does_what_the_rule_says(deepspeed_did, code, number):
    truth, did = TRUTHS[code][number], deepspeed_did[code][number]
    (rule,) = {RULES[finding.code] for finding in findings_of(truth) if finding.code == code}
    if truth.kind == "refused":
        assert "error" in did, "DeepSpeed takes it"
        assert truth.about.lower() in did["error"].lower()
        if rule.severity == ERROR:  # a note may warn of what depends on what is installed or passed
            order = (PARSE, INITIALIZE, STEP)
            assert order.index(did["when"]) <= order.index(rule.when), "at that moment at the latest"
    else:
        assert did == {"seen": True if truth.kind == "same" else truth.expected}


def test_every_rule_has_a_case_or_a_reason():
    assert {code for code, cases in TRUTHS.items() if cases} | set(ELSEWHERE) == set(RULES)
    assert len(RULES) >= 45


def test_every_rule_says_one_sentence_with_its_source():
    for code, cases in TRUTHS.items():
        for truth in cases:
            for finding in findings_of(truth):
                text = finding.sentence
                assert "\n" not in text and not text.endswith((".", ":")) and len(text) < 400, (code, text)
                assert finding.source == RULES[finding.code].source


@pytest.mark.parametrize("code", sorted(RULES))
def test_the_source_of_a_rule_is_there(code, root):
    """The files that a source names are files of the installed package."""
    import importlib.util
    import re

    source = RULES[code].source
    package, named = ("deepspeed", source)
    if source.startswith(("transformers/", "accelerate/", "hjson/")):
        package, _, named = source.partition("/")
    folder = Path(importlib.util.find_spec(package).origin).parent
    for name in re.findall(r"[\w/]+\.py", named):
        found = folder / name if "/" in name else next(folder.rglob(name), folder / name)
        assert found.exists() or list(folder.rglob(name)), name


def test_muon_ignores_what_it_does_not_know():
    import torch
    from deepspeed.runtime.engine import DeepSpeedEngine

    parameter = torch.nn.Parameter(torch.ones(2, 2))
    parameter.use_muon = True
    (group,) = DeepSpeedEngine._muon_param_groups([parameter], {"lr": 0.1, "nesterov": True})
    assert group["lr"] == 0.1 and "nesterov" not in group
    config = {"train_batch_size": 1, "optimizer": {"type": "Muon", "params": {"lr": 0.1, "nesterov": True}}}
    assert "muon-parameter-ignored" in {finding.code for finding in diagnose(config)}


def test_a_removed_key_is_told_for_every_one_that_deepspeed_removed():
    for key in known()["removed"]:
        assert diagnose({"train_batch_size": 1, key: None})[0].code == "removed-key"
