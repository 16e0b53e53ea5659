"""The colour of each role, the same in every figure and widget: measured is plain, predicted is hatched.

Every part has an edge, because no eight hues keep 3:1 to a white and to a dark ground and stay apart for everybody.
"""

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
ROLE_COLOURS = {
    "parameters": "#0072B2",
    "gradients": "#E69F00",
    "master weights": "#56B4E9",
    "optimizer states": "#009E73",
    "communication buckets": "#D55E00",
    "gathered parameters": "#CC79A7",
    "activations": "#F0E442",
    "other": "#999999",
}


def css_variables(selector):
    """Return the rule that gives the elements of a CSS selector the variables --role-parameters and so on."""
    lines = (f"  --role-{role.replace(' ', '-')}: {colour.lower()};" for role, colour in ROLE_COLOURS.items())
    return "\n".join([f"{selector} {{", *lines, "}\n"])


def contrast(colour, other):
    """Return the contrast of two colours, "#rrggbb" each, from 1 to 21, as WCAG 2 defines it."""
    darker, lighter = sorted(map(_luminance, (colour, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour):
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
