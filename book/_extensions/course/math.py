"""Formulas as MathML, which browsers draw themselves: no script, and none from another site."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError


def setup(app):
    """Register the renderer that _config.yml names under html_math_renderer."""
    app.add_html_math_renderer("mathml", (_visit_inline_math, None), (_visit_block_math, None))


def mathml(formula, display="inline"):
    """Return a formula in LaTeX as MathML, which browsers draw themselves; raises ExtensionError with the formula."""
    try:
        return convert(formula.strip(), display=display)
    except Exception as error:  # latex2mathml raises a class of its own for each kind of mistake, and others
        raise ExtensionError(
            f"latex2mathml cannot read the formula {formula!r}: {type(error).__name__} {error}"
        ) from error


def _visit_inline_math(translator, node):
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _visit_block_math(translator, node):
    translator.body.append(f'<div class="math-block" tabindex="0">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode
