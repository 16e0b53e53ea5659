"""Live DeepSpeed ranks: those of a notebook's %%ranks cells, and a run of the program beside the kernel."""
