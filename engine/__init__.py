"""Everything at inference time. Never imports torch, diffusers, transformers or onnx."""
