"""`python -m labsupport.checkpoint` on what the trainer's save and plain DeepSpeed write, and with bad input."""

import pickle
import resource
import shutil

import checkpoint_work
import pytest
import torch
from safetensors.torch import load_file

from labsupport.checkpoint.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same run, saved by the package and by plain DeepSpeed, at stages 0 and 3, with its weights beside."""
    from labsupport.ranks.notebook import Ranks

    top = tmp_path_factory.mktemp("saved")
    ranks = Ranks(2, "cpu")
    try:
        for stage in (0, 2, 3):
            ranks.run(checkpoint_work.save_both_ways, str(top), stage)
    finally:
        ranks.stop()
    return top


def lines(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr()


@pytest.mark.parametrize("kind", ["ours", "plain"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_inspect_says_what_is_in_it(folders, capsys, kind, stage):
    status, said = lines(capsys, "inspect", folders / f"{kind}{stage}")
    assert status == 0
    assert f"global_step3, the latest: step 3, stage {stage} on 2 ranks, fp32, DeepSpeed 0." in said.out
    assert ("with a manifest" if kind == "ours" else "without a manifest") in said.out
    assert "weights and counters" in said.out and "rank 0" in said.out and "Load only what you trust" in said.out
    assert ("rank 1" in said.out) == (stage > 0 or kind == "ours")


def test_inspect_runs_no_code_of_a_file(tmp_path, capsys):
    class Runs:
        def __reduce__(self):
            return open, (str(tmp_path / "it ran"), "w")

    (tmp_path / "run" / "global_step1").mkdir(parents=True)
    torch.save({"module": Runs()}, tmp_path / "run" / "global_step1" / "mp_rank_00_model_states.pt")
    status, said = lines(capsys, "inspect", tmp_path / "run")
    assert status == 0 and "step unknown" in said.out
    assert not (tmp_path / "it ran").exists()
    pickle.loads(pickle.dumps(Runs())).close()
    assert (tmp_path / "it ran").exists(), "else the test could not fail"


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_verify_tells_a_whole_one_from_a_damaged_one(folders, tmp_path, capsys, kind):
    shutil.copytree(folders / f"{kind}2", tmp_path / "run")
    status, said = lines(capsys, "verify", tmp_path / "run")
    assert status == 0 and "read in" in said.out and "DAMAGED" not in said.out
    shard = next((tmp_path / "run").rglob("*rank_1*optim_states.pt"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    status, said = lines(capsys, "verify", tmp_path / "run")
    assert status == 1 and f"{shard.name} is damaged" in said.out


@pytest.mark.parametrize("kind", ["ours", "plain"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_export_gives_transformers_the_engines_own_weights(folders, tmp_path, capsys, kind, stage):
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel

    weights = torch.load(folders / f"weights{stage}.pt")
    status, said = lines(capsys, "export", folders / f"{kind}{stage}", tmp_path / "out", "--file-gb", "0.00005")
    assert status == 0, said.err
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1 and all(file.stat().st_size < 60_000 for file in files)
    exported = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert set(exported) == set(weights) and "lm_head.weight" not in exported
    assert all(torch.equal(exported[name], weights[name]) for name in weights)
    if kind == "plain":
        return  # DeepSpeed does not keep the model's config
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert isinstance(model, GPT2LMHeadModel)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert model.generate(torch.tensor([[65, 66]]), max_new_tokens=4, do_sample=False, pad_token_id=0).shape == (1, 6)


def test_convert_writes_what_deepspeed_loads(folders, tmp_path, capsys):
    status, said = lines(capsys, "convert", folders / "ours2", tmp_path / "universal")
    assert status == 0, said.err
    assert (tmp_path / "universal" / "latest_universal").read_text() == "global_step3"
    whole = tmp_path / "universal" / "global_step3" / "zero" / "transformer.wte.weight" / "fp32.pt"
    weights = torch.load(folders / "weights2.pt")
    assert torch.equal(torch.load(whole)["param"].view(256, 32), weights["transformer.wte.weight"])


def test_prune_says_what_it_removed(folders, tmp_path, capsys):
    shutil.copytree(folders / "ours2", tmp_path / "run")
    assert lines(capsys, "prune", tmp_path / "run", "--keep", 1)[1].out == "Removed nothing.\n"


BAD = {
    "missing folder": (["inspect", "nowhere"], "is not a folder"),
    "empty folder": (["verify", "empty"], "holds no checkpoint"),
    "a tag's own folder": (["verify", "ours2/global_step3"], "holds no checkpoint"),
    "unknown tag": (["inspect", "ours2", "--tag", "global_step9"], "holds no checkpoint 'global_step9'"),
    "keep none": (["prune", "ours2", "--keep", "0"], "--keep"),
    "keep text": (["prune", "ours2", "--keep", "all"], "--keep"),
    "a target that is there": (["export", "ours2", "ours3"], "is there already"),
    "a target below a file": (["export", "ours2", "file/out"], "not written to file/out: not a directory"),
    "a target that is a link to nothing": (["export", "ours2", "link"], "link is there already"),
    "converted to a link to nothing": (["convert", "ours2", "link"], "link is not an empty folder"),
    "converted below a file": (["convert", "ours2", "file/out"], "NotADirectoryError"),
    "convert at stage 0": (["convert", "ours0", "new"], "was saved at stage 0"),
    "no adapter": (["export", "ours2", "new", "--adapter"], "holds no LoRA adapter"),
    "a file of no size": (["export", "ours2", "new", "--file-gb", "0"], "--file-gb is 0"),
    "unknown dtype": (["export", "ours2", "new", "--dtype", "int8"], "--dtype"),
    "no command": ([], "COMMAND"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(folders, capsys, monkeypatch, name):
    arguments, words = BAD[name]
    (folders / "empty").mkdir(exist_ok=True)
    (folders / "file").touch()
    (folders / "link").unlink(missing_ok=True)
    (folders / "link").symlink_to("nowhere")
    monkeypatch.chdir(folders)
    status, said = lines(capsys, *arguments)
    assert status == 2 and words in said.err
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert not (folders / "new").exists() and not (folders / "nowhere").exists()


def test_an_export_that_does_not_fit_on_the_disk_leaves_nothing(folders, tmp_path, capsys):
    """A limit on the size of files stands for the full disk: it is the same error of the same writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        status, said = lines(capsys, "export", folders / "ours2", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2 and said.err.count("\n") == 1 and "were not written to" in said.err
    assert list(tmp_path.iterdir()) == []
