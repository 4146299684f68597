"""Precisions below float32, by the words a caller asks for them with; docs/precision.md."""

PRECISIONS = ("bf16", "int8", "int8+bf16")
"""UNet and VAE in bfloat16; the UNet that `lightfill quantize` made; both."""


def is_int8(precision: str | None) -> bool:
    """Whether the quantized UNet runs. precision: of `PRECISIONS`, or None for float32."""
    return precision in {"int8", "int8+bf16"}


def is_bfloat16(precision: str | None) -> bool:
    """Whether UNet and VAE compute in bfloat16, or what int8 leaves of the UNet."""
    return precision in {"bf16", "int8+bf16"}
