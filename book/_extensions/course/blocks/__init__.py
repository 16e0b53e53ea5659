"""What the pages compute when the book is built: ```{computed} name``` shows the block of that name."""

from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from course.blocks import agreement, exercises, gpu, scaling, selector, set_up, troubleshooting
from course.blocks.block import BLOCKS
from labsupport import records
from labsupport.symptoms import entries

# Importing them registers their blocks.
MODULES = (agreement, exercises, gpu, scaling, selector, set_up, troubleshooting)


def setup(app):
    """Register the directive."""
    app.add_directive("computed", ComputedDirective)


class ComputedDirective(SphinxDirective):
    """What a block returns, so that no number is typed: ```{computed} name```."""

    required_arguments = 1

    def run(self):
        """Return the nodes of its Markdown, or of its figure; the data that it reads are dependencies."""
        data = [*records.FOLDER.glob("*.json"), *entries.FOLDER.glob("*.toml")]
        for path in [*(Path(module.__file__) for module in MODULES), *data]:
            self.env.note_dependency(str(path))
        content = computed_block(self.arguments[0])
        if isinstance(content, str):
            return self.parse_text_to_nodes(content, allow_section_headings=True)
        return [nodes.raw("", content._repr_mimebundle_()["text/html"], format="html")]


def computed_block(name):
    """Return what the block `name` returns; raises ExtensionError for one that is not there."""
    if name not in BLOCKS:
        raise ExtensionError(f"There is no computed block {name!r}: there are {', '.join(BLOCKS)}.")
    return BLOCKS[name]()
