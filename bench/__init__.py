"""Latency, measured: what the host costs, and peers."""
