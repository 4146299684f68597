"""One request of fal's endpoint: its arguments through an Inpainter to its output."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import numpy as np

from ..denoise import Progress
from ..errors import Cancelled, EngineNotBuilt, InvalidInput, SessionError
from ..pipeline import Inpainter
from ..request import resolve_image_size
from ..result import Result, Timings
from ..sessions import ENGINE_DEVICES
from ..textual_inversion import Embedding
from .embeddings import resolved
from .files import Files
from .job import OnLog
from .loras import check_merged
from .previews import preview_labels
from .schema import ImageSize, InpaintingOutput, LightfillInput, validated
from .settings import Settings

_SEEDS = 2**64
_WARM_UP_SIDE = 64

logger = logging.getLogger(__name__)


class Endpoint:
    """`fal-ai/fast-lightning-sdxl/inpainting` on this machine. Thread-safe; `close` frees it.

    The Inpainter that `settings` describe is opened by the first request, or by `open`; one that is
    passed in is used and left open. local: whether arguments may name files of this machine, which
    is right for callers in this process and wrong for any from outside.
    """

    def __init__(
        self,
        settings: Settings,
        inpainter: Inpainter | None = None,
        files: Files | None = None,
        *,
        local: bool = False,
    ) -> None:
        self._settings = settings
        self._files = files or Files(settings)
        self._local = local
        self._inpainter = inpainter
        self._owned = inpainter is None
        self._closed = False
        self._lock = threading.Lock()

    def run(
        self,
        arguments: Mapping[str, Any],
        *,
        on_log: OnLog = lambda message, labels=None: None,  # noqa: ARG005
        cancelled: Callable[[], bool] = lambda: False,
        owner: str | None = None,
    ) -> dict[str, Any]:
        """`InpaintingOutput` as a dict, for `arguments` as `LightfillInput` has them.

        on_log: told what happens ("step 2/3 after 0.35 s"), with `preview_labels` if asked for.
        cancelled: asked before each stage and after each UNet call; True raises Cancelled.
        owner: whose stored files may be read, and who owns the results.

        `timings` are seconds: "inference" as fal has it is the model's whole work, "fetch" and
        "upload" are around it, the rest are its stages (`Result.timings`).

        Raises RequestInvalid and every other LightfillError.
        """
        watch = _Watch(on_log, cancelled)
        request = validated(arguments)
        watch.check()
        inpainter = self.open()
        size = _checked_against(inpainter, request)
        with watch.measure("fetch"):
            photo = self._files.read_input(
                request.image_url, "image_url", owner=owner, local=self._local
            )
            watch.check()
            mask = self._files.read_input(
                request.mask_url, "mask_url", owner=owner, local=self._local
            )
            watch.check()
            embeddings = resolved(request.embeddings, self._files, owner=owner, local=self._local)
        watch.check()
        with watch.measure("inference"):
            result = inpainter(
                photo,
                mask,
                request.prompt,
                image_size=size,
                on_step=partial(watch.on_step, preview=request.preview),
                **_options(request, embeddings),
            )
        _log_findings(request, result, on_log)
        with watch.measure("upload"):
            images = [
                self._files.store_picture(
                    picture, request.format, sync_mode=request.sync_mode, owner=owner
                )
                for picture in result.images
            ]
        return InpaintingOutput(
            images=images,
            timings=watch.timings | _stages(result.timings),
            seed=result.seed if request.seed is None else request.seed,
            has_nsfw_concepts=list(result.has_nsfw_concepts),
            prompt=result.prompt,
        ).model_dump()

    def open(self) -> Inpainter:
        """The Inpainter, opened now if no request has done so; SessionError after `close`."""
        with self._lock:
            if self._closed:
                raise SessionError("this Endpoint is closed; make a new one")
            if self._inpainter is None:
                self._inpainter = Inpainter.open(
                    self._settings.bundle,
                    self._settings.device,
                    precision=self._settings.precision,
                    threads=self._settings.threads,
                    low_memory=self._settings.low_memory,
                    max_pixels=self._settings.max_pixels,
                )
            return self._inpainter

    def warm_up(self) -> None:
        """Open the Inpainter and paint a grey picture, so that the first request waits for nothing.

        64x64 pixels, or on TensorRT the model's natural size, whose engines are loaded.
        Raises what a request would; an engine that is not built is only logged: others may be.
        """
        inpainter = self.open()
        manifest = inpainter.bundle.manifest
        on_engines = inpainter.device in ENGINE_DEVICES
        side = manifest.natural_size if on_engines else _WARM_UP_SIDE
        grey = np.full((side, side, 3), 128, np.uint8)
        try:
            inpainter(
                grey, grey, "warm-up", image_size=(side, side), steps=min(manifest.steps), seed=0
            )
        except EngineNotBuilt as error:
            logger.warning("no warm-up at %dx%d: %s", side, side, error)

    def close(self) -> None:
        """Free the Inpainter if this endpoint opened it. Closing twice is fine."""
        with self._lock:
            self._closed = True
            inpainter, self._inpainter = self._inpainter, None
        if inpainter is not None and self._owned:
            inpainter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Watch:
    """One request's log, its stages' durations, and whether its caller still wants it."""

    def __init__(self, on_log: OnLog, cancelled: Callable[[], bool]) -> None:
        self._on_log = on_log
        self._cancelled = cancelled
        self._start = time.perf_counter()
        self.timings: dict[str, float] = {}

    def check(self) -> None:
        """Raise Cancelled if the caller has given up."""
        if self._cancelled():
            raise Cancelled("cancelled by the caller; submit the request again if it is wanted")

    def on_step(self, progress: Progress, *, preview: bool) -> None:
        """Log one UNet call, then ask whether to go on."""
        seconds = time.perf_counter() - self._start
        labels = preview_labels(progress) if preview else None
        self._on_log(f"step {progress.step}/{progress.of} after {seconds:.2f} s", labels)
        self.check()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note how long the block takes."""
        start = time.perf_counter()
        yield
        self.timings[stage] = time.perf_counter() - start


def _checked_against(inpainter: Inpainter, request: LightfillInput) -> Any:
    """`image_size` as the pipeline takes it; InvalidInput before anything is fetched."""
    manifest = inpainter.bundle.manifest
    if request.num_inference_steps not in manifest.steps:
        have = ", ".join(str(count) for count in sorted(manifest.steps))
        raise InvalidInput(
            "num_inference_steps",
            f"this server's model has no UNet for {request.num_inference_steps} steps; use {have}",
        )
    check_merged(request.loras, manifest, request.num_inference_steps)
    size = request.image_size
    given = (size.width, size.height) if isinstance(size, ImageSize) else size
    resolve_image_size(given)
    return given


def _options(request: LightfillInput, embeddings: list[Embedding]) -> dict[str, Any]:
    """The Inpainter's keyword arguments; `guidance_rescale` has no effect without guidance."""
    return {
        "steps": request.num_inference_steps,
        "strength": request.strength,
        "seed": None if request.seed is None else request.seed % _SEEDS,  # as torch takes negatives
        "num_images": request.num_images,
        "embeddings": embeddings,
        "fit": request.fit,
        "crop_to_mask": request.mask_crop_padding,
        "feather": request.feather,
        "expand_prompt": request.expand_prompt,
        "enable_safety_checker": request.enable_safety_checker,
        "safety_checker_version": request.safety_checker_version,
    }


def _log_findings(request: LightfillInput, result: Result, on_log: OnLog) -> None:
    """What the caller should know besides the output."""
    if result.prompt != request.prompt:
        on_log(f"prompt expanded to {result.prompt!r}")
    if result.truncated_prompt is not None:
        on_log(f"the prompt is too long, not used: {result.truncated_prompt[:200]!r}")
    if result.mask_cut_off > 0:
        on_log(f"{result.mask_cut_off:.0%} of the mask lies outside the cropped picture")
    if result.safety_checker not in (None, request.safety_checker_version):
        on_log(f"the model has no safety checker {request.safety_checker_version}: v2 checked")
    for index, flagged in enumerate(result.has_nsfw_concepts):
        if flagged:
            on_log(f"image {index} shows NSFW content: it is returned black")


def _stages(timings: Timings) -> dict[str, float]:
    """The pipeline's stages, the UNet's calls summed up; its total is "inference"."""
    stages = timings.as_dict()
    stages.pop("total")
    return {name: sum(each) if isinstance(each, list) else each for name, each in stages.items()}
