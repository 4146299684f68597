"""From checkpoints to bundles; the only room that imports PyTorch."""

import os

# Before huggingface_hub is imported anywhere: lightfill reports nothing to anybody.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
