"""Latency, measured: by stage, against the device's limit, against peers, and how it grows."""
