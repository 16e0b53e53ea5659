"""Exercise 08-hostfile: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "another spelling": (
        'hostfile_text = "worker-a slots:4\\nworker-b slots:4"',
        'hostfile_text = "worker-a slots = 4\\nworker-b slots = 4"',
        'hostfile_text = "worker-a,slots=4\\nworker-b,slots=4"',
    ),
    "no slots": ('hostfile_text = "worker-a\\nworker-b"', 'hostfile_text = "worker-a:4\\nworker-b:4"'),
    "twice": (
        'hostfile_text = "worker-a slots=2\\nworker-a slots=2\\nworker-b slots=4"',
        'hostfile_text = "worker-a slots=1\\n" * 4 + "worker-b slots=1\\n" * 4',
    ),
    "part of the name": ('hostfile_text = "worker-a, slots=4\\nworker-b, slots=4"',),
    "one line for both": (
        'hostfile_text = "worker-a,worker-b slots=4,4"',
        'hostfile_text = "worker-a,worker-b slots=8"',
    ),
    "rest of the line": (
        'hostfile_text = "worker-a slots=4,8\\nworker-b slots=4,8"',
        'hostfile_text = "worker-a slots=4 worker-b slots=4"',
        'hostfile_text = "worker-a slots=4 gpus=4\\nworker-b slots=4 gpus=4"',
    ),
    "slots": (
        'hostfile_text = "worker-a slots=8\\nworker-b slots=8"',
        'hostfile_text = "worker-a slots=0\\nworker-b slots=1"',
    ),
    "order": ('hostfile_text = "worker-b slots=4\\nworker-a slots=4"',),
    "other nodes": (
        'hostfile_text = "worker-a slots=4"',
        'hostfile_text = "node0 slots=4\\nnode1 slots=4"',
    ),
}

RIGHT = (
    'hostfile_text = "# the GPU nodes\\n\\nworker-a   slots=4\\nworker-b\\tslots=4\\n"',
    'hostfile_text = "\\n".join(f"{name} slots=4" for name in ("worker-a", "worker-b"))',
    '''hostfile_text = """
    worker-a slots=4  # rank 0 lives here
    worker-b slots=4
"""''',
)
