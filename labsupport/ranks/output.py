"""What a notebook shows while ranks start and while a %%ranks cell runs on them."""

import html
import time

from labsupport.errors import TrainingError

START_SECONDS = 600  # an op that was never compiled on this machine takes up to a minute of it


class StartNotice:
    """Says why a start takes long, and ends one that takes too long."""

    def __init__(self, calls):
        self.start, self.calls, self.said = time.monotonic(), calls, False

    def tick(self):
        seconds = time.monotonic() - self.start
        if seconds > 20 and not self.said:
            self.said = True
            print(
                "Still starting: the first time on a machine, DeepSpeed compiles an op, for about a minute.", flush=True
            )
        if seconds > START_SECONDS:
            raise TrainingError(
                f"The ranks did not start within {START_SECONDS} s: run `make ops`, which compiles what is missing and "
                "clears what an interrupted compilation left behind."
            )


class LiveOutput:
    """One output area for a %%ranks cell: the last line while it runs, each rank's text when it ends."""

    def __init__(self):
        self.start, self.handle = time.monotonic(), None

    def progress(self, texts):
        seconds = time.monotonic() - self.start
        if seconds < 2:
            return
        last = next((line for line in reversed(texts[0].splitlines()) if line.strip()), "")
        self._show(
            f"running on {len(texts)} ranks, {seconds:.0f} s   {last}",
            f"<pre>running, {seconds:.0f} s   {html.escape(last)}</pre>",
        )

    def final(self, outputs, errors):
        texts = [f"{out}{err}".rstrip() for out, err in zip(outputs, errors, strict=True)]
        if not any(texts):
            if self.handle:
                self._show("", "")
            return
        plain = "\n".join(f"[rank {n}] {line}" for n, text in enumerate(texts) for line in text.splitlines())
        blocks = "".join(
            f'<div class="rank" style="border-left:3px solid;padding-left:.7em;margin:.3em 0"><strong>rank {n}</strong>'
            f'<pre style="margin:0">{html.escape(text)}</pre></div>'
            for n, text in enumerate(texts)
            if text
        )
        self._show(plain, f'<div class="ranks">{blocks}</div>')

    def _show(self, plain, rich):
        from IPython.display import display

        bundle = {"text/plain": plain, "text/html": rich}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)
