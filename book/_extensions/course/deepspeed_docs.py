"""Where DeepSpeed's own documentation treats what a page teaches: a line at the end of the page's last section."""

from docutils import nodes

GUIDE, REFERENCE = "https://www.deepspeed.ai", "https://deepspeed.readthedocs.io/en/latest"
CONFIG = ("the config's keys", f"{GUIDE}/docs/config-json/")
ZERO = ("ZeRO", f"{GUIDE}/tutorials/zero/")
OFFLOAD = ("ZeRO-Offload", f"{GUIDE}/tutorials/zero-offload/")
ZERO_API = ("ZeRO's API", f"{REFERENCE}/zero3.html")
INITIALIZE = ("deepspeed.initialize", f"{REFERENCE}/initialize.html")
TRAINING = ("the training API", f"{REFERENCE}/training.html")
MEMORY = ("memory estimates", f"{REFERENCE}/memory.html")
UNIVERSAL = ("universal checkpoints", f"{GUIDE}/tutorials/universal-checkpointing/")
START = ("getting started, with the launcher and hostfiles", f"{GUIDE}/getting-started/")
INSTALL = ("installation and ops", f"{GUIDE}/tutorials/advanced-install/")
MESSAGES = ("logging of messages", f"{GUIDE}/tutorials/comms-logging/")
NVME = ("DeepNVMe", f"{GUIDE}/tutorials/deepnvme/")
TRAINER = ("DeepSpeed in transformers", "https://huggingface.co/docs/transformers/deepspeed")

PAGES = {
    "book/setup": [INSTALL],
    "book/zero": [ZERO, ZERO_API, CONFIG],
    "book/configuration": [CONFIG, ZERO, OFFLOAD],
    "book/selector": [MEMORY, CONFIG],
    "book/agreement": [MEMORY],
    "book/fsdp": [ZERO, ZERO_API],
    "book/scaling": [MESSAGES, ZERO],
    "notebooks/01_config": [CONFIG],
    "notebooks/02_initialize": [INITIALIZE, TRAINING],
    "notebooks/03_training": [TRAINING, CONFIG],
    "notebooks/04_stages": [ZERO, ZERO_API, MEMORY, MESSAGES],
    "notebooks/10_build_zero": [ZERO, ZERO_API],
    "notebooks/05_checkpointing": [TRAINING, UNIVERSAL],
    "notebooks/05b_faults": [UNIVERSAL],
    "notebooks/06_offload": [OFFLOAD, NVME, CONFIG],
    "notebooks/07_huggingface": [TRAINER, CONFIG],
    "notebooks/11_your_model": [ZERO_API, CONFIG],
    "notebooks/08_multinode": [START],
    "notebooks/09_milestone": [START, TRAINING],
}


def setup(app):
    """Register the step."""
    app.connect("doctree-read", _append)


def _append(app, doctree):
    links = PAGES.get(app.env.docname)
    sections = list(doctree.findall(nodes.section))
    if not links or not sections:
        return
    line = nodes.paragraph("", "DeepSpeed's own documentation, of its newest version: ", classes=["deepspeed-docs"])
    for number, (title, address) in enumerate(links):
        line += [nodes.Text(", ")] if number else []
        line += nodes.reference("", title, refuri=address)
    line += nodes.Text(".")
    last = [section for section in sections if section.parent is sections[0]]
    (last[-1] if last else sections[0]).append(line)
