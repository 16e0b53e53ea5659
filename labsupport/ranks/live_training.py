"""Train a run on this machine's ranks beside a live kernel, say what happens, leave nothing behind. No torch.

    LiveTraining(Run("1m", config, world_size=2), on_event=print).start()

The ranks are those of the program under the deepspeed launcher, which launch/guard.py watches over. A kernel has one
run at a time: a second one stops the first.
"""

import atexit
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from labsupport.launch.launcher import PROGRAM, failure, launcher_command, launcher_environment
from labsupport.launch.processes import remove_shared_memory
from labsupport.machine.probes import default_accelerator, free_port
from labsupport.memory.messages import times_ddp
from labsupport.runs import WARM_UP_STEPS
from labsupport.settings import read_settings
from labsupport.wording import ranks_in_words

EVENTS_SECONDS = 0.1  # no more than one event of steps in so long
SLOW_START_SECONDS = 25
SPEED_STEPS = 5  # the last steps whose median is the speed that is shown
_lock = threading.Lock()
_current = None  # the run of this kernel


class LiveTraining:
    """One training run on real ranks beside this process; made in any thread, followed in one of its own.

    run: a labsupport.runs.Run of a preset. steps: of the optimizer. accelerator: "cpu" or "cuda", by default the GPUs
    where there are enough. on_event: called with a plain dict, never twice at a time, from the thread of the run:

    {"event": "starting" or "measuring", "message"}; {"event": "step", "step", "steps", "loss", "losses" of the steps
    since the last event, "samples_per_second" (None until the warm-up is over), "held" {role: bytes} of rank 0,
    "seconds_left"}; and at last one of {"event": "ended", "result"}, {"event": "stopped"} and {"event": "failed",
    "message", "output"}. The result is the program's, with "times_ddp".
    """

    def __init__(self, run, *, steps=40, accelerator=None, on_event):
        self.run = run._replace(config=copy.deepcopy(run.config))
        self.accelerator = accelerator or default_accelerator(run.world_size)
        self._arguments = ["--model", run.model, "--steps", steps, "--sequence-length", run.sequence_length]
        self._arguments += ["--activation-checkpointing"] if run.activation_checkpointing else []
        self._on_event = on_event
        self._thread, self._stop_asked = None, threading.Event()
        self._step_seconds, self._end = [], None

    @property
    def state(self):
        """One of "idle", "starting", "training", "stopping", and then "ended", "stopped" or "failed"."""
        if self._thread is None:
            return "idle"
        if self._end is not None:
            return self._end
        if self._stop_asked.is_set():
            return "stopping"
        return "training" if self._step_seconds else "starting"

    def start(self):
        """Start the run and return at once; another run of this kernel is stopped first. Twice is harmless."""
        global _current
        with _lock:
            if self._thread is not None:
                return
            previous, _current = _current, self
            self._thread = threading.Thread(target=self._follow, args=(previous,), name="live training", daemon=True)
            self._thread.start()

    def stop(self):
        """Stop the run and return when its processes are gone; before the start and twice it is harmless."""
        if self._thread is None:
            return
        self._stop_asked.set()
        self.wait()

    def wait(self, timeout=None):
        """Wait until the run is over, or for so many seconds, and return the state."""
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(timeout)
        return self.state

    def _follow(self, previous):
        try:
            if previous is not None:
                previous.stop()
            last = self._train()
        except Exception as error:  # whatever it was, the reader hears of it
            last = {"event": "failed", "message": f"The run broke off: {type(error).__name__}: {error}", "output": ""}
        self._end = last["event"]
        self._on_event(last)

    def _train(self):
        """Run the ranks to their end and return the last event."""
        self._on_event({"event": "starting", "message": self._starting()})
        with tempfile.TemporaryDirectory(prefix="deepspeed-live-", ignore_cleanup_errors=True) as name:
            folder, port = Path(name), free_port()
            process = self._start_guard(folder, port)
            try:
                self._report(process, folder / "events.jsonl")
            finally:
                process.terminate()
                status = process.wait()
                remove_shared_memory(port)
            return self._outcome(status, folder)

    def _start_guard(self, folder, port):
        (folder / "ds_config.json").write_text(json.dumps(_with_nvme_in(folder, self.run.config)))
        (folder / "events.jsonl").touch()
        files = {"--config": "ds_config.json", "--events": "events.jsonl", "--json": "result.json"}
        program = [PROGRAM, *self._arguments, *(part for name in files for part in (name, folder / files[name]))]
        guard = [sys.executable, "-m", "labsupport.launch.guard", os.getpid(), folder, port]
        command = [*guard, *launcher_command(self.run.world_size, port=port), *program]
        with open(folder / "output.txt", "w") as output:
            return subprocess.Popen(
                list(map(str, command)),
                env=launcher_environment() | {"DS_ACCELERATOR": self.accelerator},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt of the kernel is not one of the run
            )

    def _report(self, process, path):
        """Pass on what the ranks write to `path`, until they end or a stop is asked for."""
        slow_at, rest = time.monotonic() + SLOW_START_SECONDS, ""
        with open(path) as file:
            running = True
            while running and not self._stop_asked.wait(EVENTS_SECONDS):
                running = process.poll() is None  # asked first, so that the last lines are read after the end
                *lines, rest = (rest + file.read()).split("\n")
                self._pass_on([json.loads(line) for line in lines])
                if time.monotonic() > slow_at and not self._step_seconds:
                    slow_at = float("inf")
                    self._on_event({"event": "starting", "message": self._starting(slow=True)})

    def _pass_on(self, events):
        """Give the reader what the ranks wrote, steps that follow each other as one event."""
        for are_steps, group in itertools.groupby(events, key=lambda event: event["event"] == "step"):
            for event in [self._step_event(list(group))] if are_steps else group:
                self._on_event(event)

    def _step_event(self, steps):
        self._step_seconds += [step["seconds"] for step in steps]
        last, counted = steps[-1], self._step_seconds[WARM_UP_STEPS:][-SPEED_STEPS:]
        seconds = statistics.median(counted or self._step_seconds)
        return {
            "event": "step",
            **{name: last[name] for name in ("step", "steps", "loss", "held")},
            "losses": [step["loss"] for step in steps],
            "samples_per_second": last["samples"] / seconds if counted else None,
            "seconds_left": seconds * (last["steps"] - last["step"]),
        }

    def _outcome(self, status, folder):
        if status == 0 and (folder / "result.json").exists():
            result = json.loads((folder / "result.json").read_text())
            settings = read_settings(self.run.config, self.run.world_size)
            result["times_ddp"] = times_ddp(result["collectives"], result["parameters"], settings)
            return {"event": "ended", "result": result}
        if self._stop_asked.is_set():
            return {"event": "stopped"}
        lines = (folder / "output.txt").read_text(errors="replace").splitlines()
        return {"event": "failed", "message": failure(lines, status), "output": "\n".join(lines[-200:])}

    def _starting(self, slow=False):
        place = "the processor" if self.accelerator == "cpu" else "the GPU" if self.run.world_size == 1 else "the GPUs"
        ranks = ranks_in_words(self.run.world_size)
        if slow:
            return (
                f"Still starting {ranks}: the first run on a machine compiles an op of DeepSpeed, for about a minute, "
                "NVMe's for up to five."
            )
        return (
            f"Starting {ranks} on {place}: importing torch and DeepSpeed takes 6 to 12 s, and the first run on a "
            "machine compiles an op for about a minute."
        )


def _with_nvme_in(folder, config):
    """A copy of the config whose files on NVMe go into the run's own folder, which is removed at the end."""
    config = copy.deepcopy(config)
    for key in ("offload_optimizer", "offload_param"):
        block = config.get("zero_optimization", {}).get(key) or {}
        if block.get("device") == "nvme":
            block["nvme_path"] = str(folder / "nvme")
    return config


@atexit.register
def stop_current():
    """Stop this kernel's run, if there is one, and return when its processes are gone."""
    if _current is not None:
        _current.stop()
