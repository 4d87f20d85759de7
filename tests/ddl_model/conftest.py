"""Tests of models never ask a network for anything."""

import os

# Before huggingface_hub is imported, which reads it once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
