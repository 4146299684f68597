"""The scratch memory engines compute in: one block for all of them, as large as the largest needs.

Engines on one stream run one after another, so that nothing in the block outlives a run.
"""

from .cuda_device import CudaDevice, DeviceBlock

_LEAST = 256  # an engine that needs none still wants an address


class ActivationMemory:
    """One block that grows; not thread-safe, and only touched while nothing is queued."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._block: DeviceBlock | None = None

    @property
    def nbytes(self) -> int:
        """GPU memory held."""
        return self._block.nbytes if self._block else 0

    def at_least(self, nbytes: int) -> DeviceBlock:
        """The block, replaced by a larger one if need be: who used the old one must be told.

        The old block is freed first, so that the two need not fit together. Raises
        DeviceOutOfMemory, which leaves none.
        """
        nbytes = max(nbytes, _LEAST)
        if self._block is None or self._block.nbytes < nbytes:
            self.close()
            self._block = self._device.allocate(nbytes, "activations")
        return self._block

    def shrink_to(self, nbytes: int) -> None:
        """Free the block if it is larger than any engine that is left needs."""
        if self.nbytes > max(nbytes, _LEAST):
            self.close()

    def close(self) -> None:
        """Free the block; `at_least` allocates another."""
        block, self._block = self._block, None
        if block is not None:
            self._device.free(block)
