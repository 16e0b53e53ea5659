"""A run in tokens a second, GPU-hours and money, and the program that prints them."""

import json

import pytest

from labsupport.errors import ConfigError
from labsupport.step_time.model import StepTime
from labsupport.step_time.report import main
from labsupport.step_time.training_run import training

STEP = StepTime(1.5, 0.25, 0.5, 0.0, exposed_share=0.5)  # 2 seconds


def test_a_run_is_its_steps():
    run = training(STEP, step_tokens=1_000_000, world_size=16, tokens=1e12)
    assert run.tokens_per_second == 500_000 and run.seconds == 2e6
    assert run.gpu_hours == pytest.approx(16 * 2e6 / 3600) and run.cost(3.0) == pytest.approx(3 * run.gpu_hours)
    assert run.cost(0) == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: training(STEP, 0, 8, 1e9), "step_tokens is 0"),
        (lambda: training(STEP, 1, 8, float("nan")), "tokens is nan"),
        (lambda: training(STEP, 1, 8, 1e9).cost(-1), "price_per_gpu_hour is -1"),
    ],
)
def test_bad_numbers_are_one_sentence(call, sentence):
    with pytest.raises(ConfigError, match=sentence):
        call()


COMMAND = ["--model", "llama-3.1-8b", "--stage", "2", "--world-size", "64", "--micro-batch-size", "4"]


def test_the_program_prints_what_the_functions_say(capsys):
    assert main([*COMMAND, "--tokens", "1e12", "--price", "2.5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["step_tokens"] == 64 * 4 * 2048
    assert said["tokens_per_second"] == pytest.approx(said["step_tokens"] / said["modelled_seconds"]["expected"])
    assert said["gpu_hours"] == pytest.approx(64 * 24 * said["days"]) and said["cost"] == 2.5 * said["gpu_hours"]
    assert said["outside"] is None
    assert main([*COMMAND, "--tokens", "1e12", "--price", "2.5"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Modelled, not measured") and "Within what was tested" in text
    assert f"{said['gpu_hours']:,.0f} GPU-hours" in text and f"At 2.5 a GPU-hour: {said['cost']:,.0f}." in text


def test_the_program_says_what_lies_outside(capsys):
    assert main(["--model", "7b", "--stage", "3", "--world-size", "64"]) == 0
    text = capsys.readouterr().out
    assert "Outside what was tested" in text and "GPU-hour" not in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "7bb"], "There is no model '7bb'"),
        (["--model", "7b", "--gpu", "H1"], "the nearest is 'H100'"),
        (["--model", "7b", "--network", "ethernet"], "There is no network 'ethernet'"),
        (["--model", "7b", "--stage", "4"], "ZeRO stage is 4"),
        (["--model", "7b", "--world-size", "0"], "--world-size is 0"),
        (["--model", "7b", "--sequence-length", "0"], "--sequence-length is 0"),
        (["--model", "7b", "--price", "2"], "--price needs --tokens"),
        (["--model", "7b", "--tokens", "1e12", "--price", "-2"], "--price is -2"),
        (["--model", "7b", "--tokens", "inf"], "'inf' is not finite"),
        (["--model", "7b", "--tokens", "0"], "--tokens is 0"),
        (["--model", "7b", "--stage", "0", "--offload-optimizer", "cpu"], "offload is 'cpu' at stage 0"),
        ([], "required: --model"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(arguments, sentence, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--tokens 1e12 --price 2.5" in capsys.readouterr().out
