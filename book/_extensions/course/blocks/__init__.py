"""What the {computed} blocks of the pages show: a module a page."""
