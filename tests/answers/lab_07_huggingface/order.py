"""Exercise 07-order: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "partitioned by hand": (
        """def build(make_arguments, load_model):
    import deepspeed

    with deepspeed.zero.Init():
        model = load_model()
    return make_arguments(), model""",
    ),
    "model first": (
        """def build(make_arguments, load_model):
    model = load_model()
    return make_arguments(), model""",
        """def build(make_arguments, load_model):
    model, arguments = load_model(), make_arguments()
    return arguments, model""",
    ),
    "arguments dropped": (
        """def build(make_arguments, load_model):
    make_arguments()
    model = load_model()
    return None, model""",
        """def build(make_arguments, load_model):
    make_arguments()
    model = load_model()
    return make_arguments(), model""",
    ),
    "config forgotten": (
        """def build(make_arguments, load_model):
    arguments = make_arguments()
    return load_model()""",
        """def build(make_arguments, load_model):
    arguments = make_arguments()
    return arguments.deepspeed, load_model()""",
    ),
    "built again": (
        """def build(make_arguments, load_model):
    model = load_model()
    arguments = make_arguments()
    model = load_model()
    return arguments, model""",
    ),
    "swapped": (
        """def build(make_arguments, load_model):
    arguments = make_arguments()
    return load_model(), arguments""",
    ),
}

RIGHT = (
    """def build(make_arguments, load_model):
    return make_arguments(), load_model()""",
    """def build(make_arguments, load_model):
    def with_model(arguments):
        return arguments, load_model()

    return with_model(make_arguments())""",
    """def build(first, then):
    made = [first()]
    made.append(then())
    return made""",
)
