"""Inpainter: one request from a photo, a mask and a prompt to pictures, top to bottom."""

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..scheduler import Schedule, first_step
from . import memory, vae
from .bundle import Bundle
from .cache import ByteBoundedCache
from .checks import flag, whole_number
from .denoise import OnStep, denoise, reporter, starting_latents
from .embeddings import load_embeddings
from .errors import InvalidInput
from .framing import frame
from .images import MAX_PIXELS, PILLOW_MAX_PIXELS, ImageSource, decode_mask, decode_photo
from .known import batches_of, known_latents
from .preflight import require_size
from .preview import Previewer
from .prompts import PromptExpander
from .request import MAX_IMAGES, ImageSize, Request, validated
from .result import Result, Timings
from .safety import COMPONENT as CHECKER
from .safety import SafetyCheckers, blacked_out
from .schedule import schedule_of
from .sessions import Session, SessionOptions
from .sessions.residency import AllResident, OneResident
from .text import Conditioning, TextConditioner
from .textual_inversion import Embedding, TextualInversion

CACHE_BYTES = 256 << 20

logger = logging.getLogger(__name__)


class Inpainter:
    """A bundle opened on a device. Thread-safe; use as a context manager or call `close`."""

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        options: SessionOptions | None = None,
        *,
        low_memory: bool = False,
        cache_bytes: int = CACHE_BYTES,
        batch_size: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """See `open`, which most callers want."""
        whole_number("cache_bytes", cache_bytes, 0, 2**63)
        self.bundle = bundle
        self.device = device
        self.low_memory = flag("low_memory", low_memory)
        self._batch_size = whole_number("batch_size", batch_size, 1, MAX_IMAGES)
        self._max_pixels = whole_number("max_pixels", max_pixels, 1, PILLOW_MAX_PIXELS)
        self._conditionings = ByteBoundedCache[Conditioning](cache_bytes // 4)
        self._posteriors = ByteBoundedCache[vae.Posterior](cache_bytes - cache_bytes // 4)
        residency = OneResident if low_memory else AllResident
        self._components = residency(bundle, device, options)
        self._expander = PromptExpander(bundle, options, keep=not low_memory)
        self._checkers = SafetyCheckers(
            self._components, in_bundle=CHECKER in bundle.manifest.components, options=options
        )
        session = self._components.session
        try:
            if (only_unet := bundle.only_unet) is not None:
                session(only_unet)  # first, for a while it takes twice the memory that it keeps
            towers = session("text_encoder"), session("text_encoder_2")
            self._vae_encoder, self._vae_decoder = session("vae_encoder"), session("vae_decoder")
            self._text = TextConditioner(bundle, *towers)
            self._towers = dict(zip(("text_encoder", "text_encoder_2"), towers, strict=True))
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        device: str = "cpu",
        *,
        threads: int | None = None,
        memory_arena: bool = True,
        device_index: int = 0,
        cache_bytes: int = CACHE_BYTES,
        batch_size: int = 1,
        max_pixels: int = MAX_PIXELS,
        low_memory: bool | None = None,
        vram_budget_bytes: int | None = None,
        engines: str | os.PathLike[str] | None = None,
        build_missing: bool = False,
        precision: str | None = None,
    ) -> Self:
        """Open the bundle in a directory (None: the embedded demo model) on `device`.

        device: "cpu", "openvino", "cuda", "tensorrt", "rtx", or "null" (constant outputs, to
            measure the host). "tensorrt" and "rtx" run engines that `lightfill build` makes.
        threads, memory_arena, device_index, vram_budget_bytes, engines, build_missing, precision:
            see `SessionOptions`.
        cache_bytes: bound for remembered prompts and encoded photos together; 0 remembers nothing.
        batch_size: pictures per UNet call when `num_images` asks for several.
        max_pixels: larger photos and masks are refused before they are decoded; at most Pillow's
            own limit of 89 million.
        low_memory: hold one component at a time, loaded when it runs and, on "cpu", with its
            weights mapped (`SessionOptions`): slower, pictures differ by at most one level of 255,
            and a component that cannot be loaded is an error of the first request. None: if the
            bundle needs more memory than is available (`engine.memory` has the rule), with a
            warning; `Inpainter.low_memory` tells. "tensorrt" and "rtx" have vram_budget_bytes.

        Of several UNets, each is loaded when its step count is first used. Raises BundleError or
        DeviceUnavailable; never another device than the one asked for.
        """
        opened = Bundle.open(bundle)
        low_memory = memory.chooses_low_memory(opened, device, low_memory, precision)
        options = SessionOptions(
            threads=threads, memory_arena=memory_arena, device_index=device_index,
            weights_mapped=low_memory, vram_budget_bytes=vram_budget_bytes,
            engines=engines, build_missing=build_missing, precision=precision,
        )  # fmt: skip
        return cls(
            opened,
            device,
            options,
            low_memory=low_memory,
            cache_bytes=cache_bytes,
            batch_size=batch_size,
            max_pixels=max_pixels,
        )

    def __call__(
        self,
        image: ImageSource,
        mask: ImageSource,
        prompt: str,
        *,
        image_size: ImageSize = "square_hd",
        steps: int = 4,
        strength: float = 0.95,
        seed: int | None = None,
        num_images: int = 1,
        embeddings: Sequence[Embedding | Mapping[str, Any]] | None = None,
        fit: str = "crop",
        crop_to_mask: float | None = None,
        feather: int = 8,
        blend: str = "context",
        composite: bool = True,
        expand_prompt: bool = False,
        enable_safety_checker: bool | None = None,
        safety_checker_version: str | None = None,
        on_step: OnStep | None = None,
    ) -> Result:
        """Repaint the white part of `mask` in `image` as `prompt` says.

        image, mask: bytes, path, PIL picture or array; the mask is stretched over the photo.
        image_size: preset, "WIDTHxHEIGHT", (width, height), {"width", "height"}, or "source".
        steps: 1, 2, 4 or 8, as the bundle has; selects the UNet. strength: 0.01..1.
        seed: 0..2**64-1, None draws one. Picture k of `num_images` (1..8) has seed + k.
        embeddings: textual inversions, as `Embedding` or {"path", "tokens"}.
        expand_prompt: lengthen the prompt (`engine.prompts`); `Result.prompt` is what was used.
        fit: "crop", "stretch" or "pad" a photo of another shape than image_size.
        crop_to_mask: let the model see only the mask's surroundings, grown by this fraction (0..4),
            at image_size; the result is pasted into the photo, which keeps its own size.
        feather: width in pixels (0..64) of the soft edge inside the mask, at the working size.
        blend, composite: "diffusers" and False give diffusers' pictures, for comparisons.
        enable_safety_checker, safety_checker_version: True demands a check, False skips it, None
            checks if the bundle has a checker or a version is named. "v1" is the bundle's checker
            or, where it has none, "v2", a packaged classifier. Flagged pictures come back black.
        on_step: called with `Progress` after each UNet call; returning False cancels.

        Raises InvalidInput, ComponentMissing, EngineError, Cancelled, SessionError.
        """
        start = time.perf_counter()
        request = validated(
            prompt=prompt, image_size=image_size, steps=steps, strength=strength, seed=seed,
            num_images=num_images, fit=fit, crop_to_mask=crop_to_mask, feather=feather,
            blend=blend, composite=composite,
        )  # fmt: skip
        if on_step is not None and not callable(on_step):
            raise InvalidInput("on_step", f"{on_step!r} cannot be called; pass a function or None")
        unet, schedule = self._unet(request)
        expands = flag("expand_prompt", expand_prompt)
        checker = self._checkers.chosen(enable_safety_checker, safety_checker_version)
        inversions = load_embeddings(embeddings or (), self._text)
        batches = batches_of(request.seeds, self._batch_size)
        parts = self._parts(unet, None if checker is None else checker.session)
        if request.image_size is not None:
            require_size(parts, request.image_size, batches)
        timings = Timings()

        with timings.measure("prepare"):
            photo = decode_photo(image, max_pixels=self._max_pixels)
            framing = frame(photo, decode_mask(mask, max_pixels=self._max_pixels), request)
        if request.image_size is None:
            require_size(parts, framing.canvas.size, batches)
        with timings.measure("text"):
            used = self._expanded(request.prompt, inversions) if expands else request.prompt
            conditioning = self._conditioning(used, inversions)
            if conditioning.truncated:
                logger.warning("the prompt is too long; not used: %.200r", conditioning.truncated)
        with timings.measure("vae_encode"):
            posterior = self._posterior(framing.padded_pixels)
        previewer = Previewer(framing.canvas, posterior.mean)
        report = reporter(on_step, schedule.steps * len(batches), timings.unet, previewer)
        clean: list[NDArray[np.float32]] = []
        with timings.measure("denoise"):
            for known in known_latents(request, posterior, framing.canvas, batches):
                sigma = float(schedule.sigmas[0])
                x = starting_latents(known, sigma, pure_noise=request.strength == 1.0)
                clean.append(denoise(unet, x, known, schedule, conditioning, request.blend, report))
        with timings.measure("vae_decode"):
            decoded = [vae.decode(self._vae_decoder, x, self._scaling_factor) for x in clean]
        with timings.measure("composite"):
            images = [framing.finish(pixels) for batch in decoded for pixels in batch]
        with timings.measure("safety"):
            flags = [checker is not None and checker.is_unsafe(image) for image in images]
            images = [blacked_out(i) if flag else i for i, flag in zip(images, flags, strict=True)]
        timings.total = time.perf_counter() - start
        return Result(
            images=tuple(images),
            source=framing.source,
            mask=framing.region,
            mask_cut_off=framing.mask_cut_off,
            prompt=used,
            truncated_prompt=conditioning.truncated,
            seeds=request.seeds,
            steps=request.steps,
            effective_steps=schedule.steps,
            strength=request.strength,
            device=self.device,
            safety_checker=None if checker is None else checker.version,
            has_nsfw_concepts=tuple(flags),
            timings=timings,
        )

    def close(self) -> None:
        """Free every session; requests afterwards raise SessionError. Closing twice is fine."""
        self._components.close()
        self._checkers.close()
        self._expander.close()
        self._conditionings.clear()
        self._posteriors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _scaling_factor(self) -> float:
        return self.bundle.manifest.vae.scaling_factor

    def _unet(self, request: Request) -> tuple[Session, Schedule]:
        """The UNet of the asked step count and the part of its schedule that strength leaves."""
        schedule = schedule_of(self.bundle, request.steps)
        start = first_step(request.steps, request.strength)
        session = self._components.session(self.bundle.unet(request.steps).component)
        return session, schedule.starting_at(start)

    def _parts(self, unet: Session, checker: Session | None) -> dict[str, Session | None]:
        """Every session a request runs, by role; those that a picture's size changes come first.

        What builds their engines builds the others' too.
        """
        vae = {"vae_encoder": self._vae_encoder, "vae_decoder": self._vae_decoder}
        return {"unet": unet, **vae, **self._towers, "safety_checker": checker}

    def _expanded(self, prompt: str, inversions: Sequence[TextualInversion]) -> str:
        return self._expander.expand(prompt, lambda text: self._text.fits(text, inversions))

    def _conditioning(self, prompt: str, inversions: Sequence[TextualInversion]) -> Conditioning:
        key = (prompt, *(inversion.digest for inversion in inversions))
        return self._conditionings.get_or_compute(
            key, lambda: self._text.encode(prompt, inversions)
        )

    def _posterior(self, pixels: NDArray[np.uint8]) -> vae.Posterior:
        content = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=32)
        key = (pixels.shape, content.digest())
        return self._posteriors.get_or_compute(
            key, lambda: vae.encode(self._vae_encoder, pixels, self._scaling_factor)
        )
