"""The GitHub Actions files, against GitHub's own schema."""

import subprocess
import sys

import yaml


def test_workflows_match_the_schema(root):
    files = sorted(map(str, (root / ".github" / "workflows").glob("*.yml")))
    assert len(files) == 3
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_run_the_commands_of_the_readme_and_name_no_owner(root):
    readme = (root / "README.md").read_text()
    for name, command in {"cpu": "make test", "gpu": "make test", "book": "make book"}.items():
        text = (root / ".github" / "workflows" / f"{name}.yml").read_text()
        steps = next(iter(yaml.safe_load(text)["jobs"].values()))["steps"]
        assert command in [step.get("run") for step in steps] and command in readme
        assert "github.io" not in text and "https://github.com" not in text


def test_the_gpu_workflow_measures_and_keeps_the_executed_labs_and_the_records(root):
    job = yaml.safe_load((root / ".github" / "workflows" / "gpu.yml").read_text())["jobs"]["test"]
    assert "self-hosted" in job["runs-on"]
    assert "make gpu" in [step.get("run") for step in job["steps"]] and "make gpu" in (root / "README.md").read_text()
    kept = next(step["with"]["path"] for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    for path in ("_build/executed_gpu", "labsupport/recorded/gpu_*.json", "_build/gpu"):
        assert path in kept.split()
