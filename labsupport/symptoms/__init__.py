"""What goes wrong with DeepSpeed: error texts with cause and fix, kept once, for the page and for the finder in logs.

The entries stand in the .toml files beside this one, a file for each section of book/troubleshooting.md.
"""
