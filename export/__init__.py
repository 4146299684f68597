"""Checkpoint in, ONNX bundle out. The only room where torch, diffusers and transformers live."""
