"""The page in a real Chromium: a visit that notes what goes wrong, and servers that wait."""

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright
from running_server import RunningServer, running

from lightfill.engine.fal import endpoint as endpoint_module
from lightfill.engine.fal.job import OnLog
from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter

ROOT = Path(__file__).parents[4]
SCREENSHOTS = ROOT / "out/page"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
_PATIENCE_MS = 60_000


def required(what: str, install: str) -> None:
    """Fail where everything must be there (CI sets TESTS_REQUIRE_BROWSER), else skip.

    Not LIGHTFILL_...: those are settings, and programs that the tests start warn of unknown ones.
    """
    message = f"{what} is missing; run `{install}`"
    if os.environ.get("TESTS_REQUIRE_BROWSER"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's browser. One per module: Playwright's event loop is in the way of other tests'."""
    found = shutil.which("chromium")
    if found is None:
        required("chromium", "apt-get install -y chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One tab on a server's page. `expected`: patterns of console errors that a test provokes."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.expected: list[str] = []
        self._problems: list[str] = []
        self._foreign: list[str] = []
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self._problems.append(f"uncaught: {error}"))
        page.on("request", self._asked)
        page.goto(origin)
        page.wait_for_selector("#model:not(:empty)")

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._problems.append(f"{message.text} ({message.location.get('url')})")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.origin}/", "blob:", "data:")):
            self._foreign.append(request.url)

    def check(self) -> None:
        """Nothing was asked of any other origin, and nothing unexpected is in the console."""
        assert self._foreign == []
        unexpected = [
            problem
            for problem in self._problems
            if not any(re.search(pattern, problem) for pattern in self.expected)
        ]
        assert unexpected == []

    @property
    def state(self) -> str:
        return self.page.locator("body").get_attribute("data-state") or ""

    def until(self, state: str) -> None:
        self.page.wait_for_selector(f'body[data-state="{state}"]')

    def example(self) -> None:
        """The built-in photo and mask."""
        self.page.click("#example")
        self.until("edit")
        self.page.wait_for_selector("#undo:enabled")

    def generate(self) -> None:
        """Ask for a picture and wait for it."""
        self.page.click("#generate")
        self.until("result")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def shot(self, name: str) -> None:
        """A screenshot for whoever looks at this run."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    # --- the mask ---------------------------------------------------------------------------------

    def drag(self, *spots: tuple[float, float]) -> None:
        """The mouse pressed from spot to spot; spots are shares of the photo's width and height."""
        box = self.page.locator("#mask").bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in spots]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=8)
        self.page.mouse.up()

    def is_painted(self, x: float, y: float) -> bool:
        """Whether the mask is painted there, in shares of its sides."""
        script = """([x, y]) => {
            const mask = document.getElementById("mask");
            const at = [Math.floor(x * mask.width), Math.floor(y * mask.height), 1, 1];
            return mask.getContext("2d").getImageData(...at).data[3] > 127;
        }"""
        return bool(self.page.evaluate(script, [x, y]))

    def painted_share(self) -> float:
        """How much of the mask is painted, 0..1."""
        script = """() => {
            const mask = document.getElementById("mask");
            const all = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height).data;
            let painted = 0;
            for (let i = 3; i < all.length; i += 4) painted += all[i] > 127;
            return painted / (mask.width * mask.height);
        }"""
        return float(self.page.evaluate(script))


Visiting = Callable[..., Visit]


@contextmanager
def tabs(browser: Browser) -> Iterator[Visiting]:
    """Opens tabs: (server, **context options) -> Visit. At the end all must be faultless."""
    visits = []

    def visit(server: RunningServer, **options: Any) -> Visit:
        context = browser.new_context(**{**DESKTOP, **options})
        visits.append(Visit(context.new_page(), server.origin))
        return visits[-1]

    yield visit
    for each in visits:
        each.page.context.close()
    for each in visits:
        each.check()


@pytest.fixture
def visiting(chromium: Browser) -> Iterator[Visiting]:
    """Opens this test's tabs."""
    with tabs(chromium) as visit:
        yield visit


@pytest.fixture(scope="module")
def quiet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that runs no jobs, for all tests of a module."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("quiet"), port=0, workers=0)
    with running(settings) as started:
        yield started


@pytest.fixture(scope="module")
def painting_server(
    tmp_path_factory: pytest.TempPathFactory, demo_inpainter: Inpainter
) -> Iterator[RunningServer]:
    """A server on the embedded model, for all tests of a module."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("painting"), port=0)
    with running(settings, inpainter=demo_inpainter) as started:
        yield started


class PacedEndpoint(endpoint_module.Endpoint):
    """The real endpoint on the real model; each step waits until the test lets it go on."""

    steps = threading.Semaphore(0)
    free = threading.Event()

    def run(
        self,
        arguments: Mapping[str, Any],
        *,
        on_log: OnLog,
        cancelled: Callable[[], bool],
        **options: Any,
    ) -> dict[str, Any]:
        def log(message: str, labels: Mapping[str, str] | None = None) -> None:
            on_log(message, labels)
            while message.startswith("step") and not self.free.is_set() and not cancelled():
                if self.steps.acquire(timeout=0.02):
                    break

        return super().run(arguments, on_log=log, cancelled=cancelled, **options)


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[PacedEndpoint]]:
    """The endpoint of every server made in this test; `steps.release()` lets one step pass."""
    kind = type(
        "Paced", (PacedEndpoint,), {"steps": threading.Semaphore(0), "free": threading.Event()}
    )
    monkeypatch.setattr(endpoint_module, "Endpoint", kind)
    yield kind
    kind.free.set()


@pytest.fixture
def paced_server(
    settings: Settings, paced: type[PacedEndpoint], demo_inpainter: Inpainter
) -> Iterator[RunningServer]:
    """A server on the embedded model that paints step by step."""
    with running(settings, inpainter=demo_inpainter) as started:
        yield started
        paced.free.set()
