"""What a cell shows in one place while it runs: each text takes the place of the one before."""


class CellOutput:
    """One output of a cell; in a terminal each text follows the one before."""

    def __init__(self):
        self._handle = None

    def show(self, plain, rich):
        """Show a text, and in a notebook its HTML."""
        if not in_notebook():
            if plain:
                print(plain, flush=True)
            return
        from IPython.display import display

        bundle = {"text/plain": plain, "text/html": rich}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def in_notebook():
    """Whether this process is the kernel of a notebook."""
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
