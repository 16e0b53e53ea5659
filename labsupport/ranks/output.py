"""What a notebook shows while ranks start and while a %%ranks cell runs on them."""

import html
import time

from labsupport.cell_output import CellOutput, in_notebook
from labsupport.errors import TrainingError
from labsupport.wording import ranks_in_words

START_SECONDS = 600  # an op that was never compiled on this machine takes up to a minute of it


class StartNotice:
    """Says at once what a start waits for, then how long it has taken, and ends one that takes too long."""

    def __init__(self, count, accelerator):
        self.start, self.second, self.output = time.monotonic(), 0, CellOutput()
        place = "GPU" if accelerator == "cuda" else "processor"
        self.words = (
            f"Starting {ranks_in_words(count)} on the {place}: importing torch and DeepSpeed takes 6 to 12 s for two "
            "ranks on two cores, and longer for more"
        )
        self._show(f"{self.words}.")

    def tick(self):
        """Bring the notice up to date; raises TrainingError after START_SECONDS."""
        second = int(time.monotonic() - self.start)
        if second > START_SECONDS:
            raise TrainingError(
                f"The ranks did not start within {START_SECONDS} s: run `make ops`, which compiles what is missing and "
                "clears what an interrupted compilation left behind."
            )
        if second > self.second and in_notebook():  # in a terminal, each would be a line of its own
            slow = ", the first time on a machine DeepSpeed compiles an op, for about a minute" if second > 30 else ""
            self._show(f"{self.words}{slow}; {second} s so far.")
        self.second = second

    def final(self, words):
        """Show what was started in the place of the notice."""
        self._show(words)

    def _show(self, words):
        self.output.show(words, f"<pre>{html.escape(words)}</pre>")


class LiveOutput:
    """One output area for a %%ranks cell: the last line while it runs, each rank's text when it ends."""

    def __init__(self):
        self.start, self.shown, self.output = time.monotonic(), False, CellOutput()

    def progress(self, texts):
        """Show the last line of rank 0. texts: what each rank has printed so far."""
        seconds = time.monotonic() - self.start
        if seconds < 2 or not in_notebook():
            return
        last = next((line for line in reversed(texts[0].splitlines()) if line.strip()), "")
        self._show(
            f"running on {len(texts)} ranks, {seconds:.0f} s   {last}",
            f"<pre>running, {seconds:.0f} s   {html.escape(last)}</pre>",
        )

    def final(self, outputs, errors):
        """Show what each rank printed; what several printed alike is shown once."""
        texts = [f"{out}{err}".rstrip() for out, err in zip(outputs, errors, strict=True)]
        alike = {text: [n for n, each in enumerate(texts) if each == text] for text in texts if text}
        if not alike:
            if self.shown:
                self._show("", "")
            return
        plain = "\n".join(f"[{named(ranks)}] {line}" for text, ranks in alike.items() for line in text.splitlines())
        blocks = "".join(
            f'<div class="rank" style="border-left:3px solid;padding-left:.7em;margin:.3em 0">'
            f'<strong>{named(ranks)}</strong><pre style="margin:0">{html.escape(text)}</pre></div>'
            for text, ranks in alike.items()
        )
        self._show(plain, f'<div class="ranks">{blocks}</div>')

    def _show(self, plain, rich):
        self.shown = True
        self.output.show(plain, rich)


def named(ranks):
    """[0] is "rank 0", [0, 1] is "ranks 0 and 1", [0, 1, 2] is "ranks 0 to 2"."""
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    first = ", ".join(map(str, ranks[:-1]))
    return f"ranks {first} and {ranks[-1]}" if first else f"rank {ranks[0]}"


def show_traceback(ranks, text):
    """Show a rank's traceback in a notebook, folded: the sentence that follows says what most readers need."""
    if text and in_notebook():
        summary = f"The traceback of {named(ranks[:1])}"
        CellOutput().show("", f"<details><summary>{summary}</summary><pre>{html.escape(text)}</pre></details>")
