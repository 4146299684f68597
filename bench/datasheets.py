"""What makers' data sheets promise of GPUs: dense float16 tensor operations, memory bandwidth.

"Dense" is without structured sparsity. GeForce cards do twice the operations with float16 sums that
they do with float32 sums; the larger figure is given, being the limit. Sources: NVIDIA's data sheet
of each card, and its white papers on the Ampere, Ada and Blackwell architectures.
"""

from dataclasses import dataclass

_TERA = 1e12
_GIGA = 1e9


@dataclass(frozen=True)
class DataSheet:
    """One card. key: its short name. words: all that the driver's name of the card must hold.

    flops, bytes: a second.
    """

    key: str
    name: str
    words: tuple[str, ...]
    flops: float
    bytes: float


def _sheet(key: str, name: str, words: str, tflops: float, gbytes: float) -> DataSheet:
    return DataSheet(key, name, tuple(words.split()), tflops * _TERA, gbytes * _GIGA)


SHEETS = (
    _sheet("b200", "NVIDIA B200 SXM", "B200", 2250, 8000),
    _sheet("h200", "NVIDIA H200 SXM", "H200", 989.4, 4800),
    _sheet("h100-pcie", "NVIDIA H100 PCIe", "H100 PCIe", 756, 2000),
    _sheet("h100", "NVIDIA H100 SXM", "H100", 989.4, 3350),
    _sheet("a100-40gb", "NVIDIA A100 SXM 40 GB", "A100 40GB", 312, 1555),
    _sheet("a100", "NVIDIA A100 SXM 80 GB", "A100", 312, 2039),
    _sheet("l40s", "NVIDIA L40S", "L40S", 362, 864),
    _sheet("l4", "NVIDIA L4", "L4", 121, 300),
    _sheet("a10", "NVIDIA A10", "A10", 125, 600),
    _sheet("t4", "NVIDIA T4", "T4", 65, 320),
    _sheet("5090", "NVIDIA GeForce RTX 5090", "RTX 5090", 419, 1792),
    _sheet("4090", "NVIDIA GeForce RTX 4090", "RTX 4090", 330.3, 1008),
    _sheet("4080", "NVIDIA GeForce RTX 4080", "RTX 4080", 194.9, 717),
    _sheet("3090", "NVIDIA GeForce RTX 3090", "RTX 3090", 142, 936),
)
_OTHER_CARDS = {"D", "Laptop", "Max", "MIG", "NVL", "SUPER", "Ti"}
"""In a driver's name, they make another card of a known one: slower, larger, or a part of it."""


def sheet_of(name: str) -> DataSheet | None:
    """The sheet of a GPU by the driver's name, such as "NVIDIA A100-SXM4-80GB"."""
    words = set(name.replace("-", " ").split())
    if words & _OTHER_CARDS:
        return None
    return next((sheet for sheet in SHEETS if words.issuperset(sheet.words)), None)


def sheet_named(key: str) -> DataSheet | None:
    """The sheet `--predict` calls by a short name."""
    return next((sheet for sheet in SHEETS if sheet.key == key.lower().removeprefix("rtx")), None)
