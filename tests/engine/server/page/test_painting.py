"""Painting a mask: pointer, touch, keys, undo and the rest, and what the server is sent."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running_server import RunningServer

from .conftest import PHONE, Visit, Visiting

EXAMPLES = Path(__file__).parents[4] / "examples"


@pytest.fixture
def visit(visiting: Visiting, quiet_server: RunningServer) -> Visit:
    """A tab with the example photo, nothing painted."""
    visit = visiting(quiet_server)
    visit.example()
    visit.page.click("#clear")
    assert visit.painted_share() == 0
    return visit


def test_a_stroke_is_painted_where_the_pointer_goes_and_nowhere_else(visit: Visit) -> None:
    visit.drag((0.2, 0.3), (0.6, 0.3))
    assert all(visit.is_painted(x, 0.3) for x in (0.2, 0.35, 0.5, 0.6))
    assert not visit.is_painted(0.4, 0.6)
    assert not visit.is_painted(0.75, 0.3)
    assert 0.01 < visit.painted_share() < 0.15


def test_a_click_is_a_dot_as_large_as_the_brush(visit: Visit) -> None:
    visit.page.fill("#brush-size", "30")
    visit.drag((0.5, 0.5))
    small = visit.painted_share()
    visit.page.fill("#brush-size", "60")
    visit.drag((0.5, 0.5))
    ring = visit.page.locator("#ring").bounding_box()
    mask = visit.page.locator("#mask").bounding_box()
    assert ring is not None
    assert mask is not None
    disc = np.pi * ring["width"] ** 2 / 4 / (mask["width"] * mask["height"])
    assert small > 0
    assert visit.painted_share() == pytest.approx(disc, rel=0.05)


def test_erasing_undoing_redoing_inverting_and_clearing(visit: Visit) -> None:
    page = visit.page
    visit.drag((0.2, 0.5), (0.8, 0.5))
    page.click("#erase")
    visit.drag((0.5, 0.3), (0.5, 0.7))
    assert [visit.is_painted(x, 0.5) for x in (0.3, 0.5, 0.7)] == [True, False, True]
    page.click("#undo")
    assert visit.is_painted(0.5, 0.5)
    page.click("#redo")
    assert not visit.is_painted(0.5, 0.5)
    before = visit.painted_share()
    page.click("#invert")
    assert visit.painted_share() == pytest.approx(1 - before, abs=0.002)
    page.click("#clear")
    assert visit.painted_share() == 0
    for _ in range(2):
        page.click("#undo")
    assert visit.painted_share() == pytest.approx(before, abs=1e-9)
    assert page.is_enabled("#redo")
    page.click("#paint")
    visit.drag((0.1, 0.1))
    assert not page.is_enabled("#redo")


def test_only_the_oldest_of_very_many_strokes_can_no_longer_be_undone(visit: Visit) -> None:
    script = """async () => {
        const { Mask } = await import("/page/mask.js");
        const mask = new Mask(document.createElement("canvas"));
        mask.reset(800, 600);
        const alpha = (x) => mask.canvas.getContext("2d").getImageData(x, 50, 1, 1).data[3];
        for (let i = 0; i < 66; i += 1) {
            mask.begin(10 + 10 * i, 50, 8, false);
            mask.end();
        }
        const all = Array.from({ length: 66 }, (_, i) => alpha(10 + 10 * i));
        let undone = 0;
        for (; mask.canUndo; undone += 1) mask.undo();
        return [all, undone, Array.from({ length: 66 }, (_, i) => alpha(10 + 10 * i))];
    }"""
    before, undone, after = visit.page.evaluate(script)
    assert before == [255] * 66
    assert undone == 60
    assert after == [255] * 6 + [0] * 60


def test_a_zoomed_or_narrow_page_paints_in_the_same_place(visit: Visit) -> None:
    visit.page.evaluate("document.documentElement.style.zoom = 1.5")
    visit.page.set_viewport_size({"width": 700, "height": 900})
    visit.page.locator("#mask").scroll_into_view_if_needed()
    visit.drag((0.3, 0.4))
    assert visit.is_painted(0.3, 0.4)
    assert not visit.is_painted(0.5, 0.5)


def test_the_brush_moves_and_paints_by_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    page.focus("#mask")
    page.keyboard.down(" ")
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    page.keyboard.up(" ")
    assert visit.is_painted(0.5, 0.5)
    assert visit.is_painted(0.6, 0.5)
    assert not visit.is_painted(0.4, 0.5)
    assert "across" in visit.page.locator("#announcer").inner_text()
    page.keyboard.press("e")
    assert page.get_attribute("#erase", "aria-pressed") == "true"
    page.keyboard.down(" ")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.up(" ")
    erased = visit.painted_share()
    page.keyboard.press("Control+z")
    assert visit.painted_share() > erased
    page.keyboard.press("Control+y")
    assert visit.painted_share() == pytest.approx(erased, abs=0.001)
    page.keyboard.press("i")
    assert visit.painted_share() == pytest.approx(1 - erased, abs=0.002)
    size = int(page.input_value("#brush-size"))
    page.keyboard.press("]")
    assert int(page.input_value("#brush-size")) == size + 4


def test_touch_paints_and_two_fingers_do_not(
    visiting: Visiting, quiet_server: RunningServer
) -> None:
    visit = visiting(quiet_server, **PHONE)
    visit.example()
    visit.page.click("#clear")
    visit.page.locator("#mask").scroll_into_view_if_needed()
    box = visit.page.locator("#mask").bounding_box()
    assert box is not None
    session = visit.page.context.new_cdp_session(visit.page)

    def touch(kind: str, *spots: tuple[float, float]) -> None:
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": i}
            for i, (x, y) in enumerate(spots)
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (0.2, 0.5))
    touch("touchMove", (0.4, 0.5))
    touch("touchEnd")
    assert visit.is_painted(0.3, 0.5)
    share = visit.painted_share()
    touch("touchStart", (0.5, 0.2))
    touch("touchStart", (0.5, 0.2), (0.8, 0.8))
    touch("touchMove", (0.5, 0.3), (0.8, 0.7))
    touch("touchEnd")
    assert visit.painted_share() == pytest.approx(share, abs=0.001)


def mask_file(mode: str) -> bytes:
    """A disc on the left: white on black, or opaque on nothing."""
    across, down = np.meshgrid(np.arange(300), np.arange(200))
    disc = (across - 75) ** 2 + (down - 100) ** 2 < 50**2
    white = disc.astype(np.uint8) * 255
    if mode == "L":
        picture = Image.fromarray(white)
    else:
        picture = Image.fromarray(np.dstack([np.zeros((200, 300, 3), np.uint8), white]))
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_a_mask_file_is_read_as_the_server_reads_it(visit: Visit, mode: str) -> None:
    file: Any = {"name": "mask.png", "mimeType": "image/png", "buffer": mask_file(mode)}
    visit.page.set_input_files("#mask-file", file)
    visit.page.wait_for_selector("#undo:enabled")
    assert visit.is_painted(0.25, 0.5)
    assert not visit.is_painted(0.75, 0.5)
    assert visit.painted_share() == pytest.approx(np.pi * 50**2 / (300 * 200), rel=0.02)


def test_a_file_that_is_no_mask_is_refused_and_the_mask_stays(visit: Visit) -> None:
    visit.drag((0.2, 0.3), (0.6, 0.3))
    share = visit.painted_share()
    page = visit.page
    text: Any = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not a picture"}
    page.set_input_files("#mask-file", text)
    page.wait_for_selector("#problem:not([hidden])")
    assert "no picture the browser knows" in visit.text("#problem")
    buffer = BytesIO()
    Image.new("L", (30, 20)).save(buffer, "PNG")
    black: Any = {"name": "black.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    page.set_input_files("#mask-file", black)
    page.wait_for_selector("#problem-text:has-text('Nothing in this mask')")
    assert visit.painted_share() == share


def test_the_server_gets_the_photos_own_bytes_and_the_mask_as_painted(
    visit: Visit,
) -> None:
    visit.drag((0.2, 0.3), (0.6, 0.3))
    shown = visit.painted_share()
    with visit.page.expect_request("**/queue/**/inpainting") as asked:
        visit.page.click("#generate")
    sent = asked.value.post_data_json
    visit.page.click("#cancel")
    visit.until("edit")
    photo = base64.b64decode(sent["image_url"].partition(",")[2])
    assert (
        photo == (Path(__file__).parents[4] / "engine/server/page/example/photo.jpg").read_bytes()
    )
    with Image.open(BytesIO(base64.b64decode(sent["mask_url"].partition(",")[2]))) as mask:
        assert mask.size == (600, 400)
        white = np.asarray(mask.convert("L"))
    assert white[120, 240] == 255
    assert white[300, 240] == 0
    assert (white >= 128).mean() == pytest.approx(shown, abs=0.001)
    assert sent["preview"] is True


@pytest.mark.parametrize("way", ["chosen", "dropped", "pasted"])
def test_a_photo_is_chosen_dropped_or_pasted(
    visiting: Visiting, quiet_server: RunningServer, way: str
) -> None:
    visit = visiting(quiet_server)
    data = (EXAMPLES / "coffee.png").read_bytes()
    if way == "chosen":
        visit.page.set_input_files("#photo-file", EXAMPLES / "coffee.png")
    else:
        script = """([kind, data]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "coffee.png", { type: "image/png" }));
            const event = kind === "dropped"
                ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
            document.body.dispatchEvent(event);
        }"""
        visit.page.evaluate(script, [way, base64.b64encode(data).decode()])
    visit.until("edit")
    assert visit.page.evaluate("document.getElementById('photo').naturalWidth") == 600
    assert "As the photo, 314 \N{MULTIPLICATION SIGN} 209" in visit.text("#size")


def test_the_dropped_photos_orientation_is_the_one_shown(
    visiting: Visiting, quiet_server: RunningServer
) -> None:
    """EXIF says the camera was turned: page and server must agree on what is up."""
    visit = visiting(quiet_server)
    buffer = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 200), "teal").save(buffer, "JPEG", exif=exif)
    photo: Any = {"name": "p.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
    visit.page.set_input_files("#photo-file", photo)
    visit.until("edit")
    size = visit.page.evaluate("[(m => m.width)(mask), (m => m.height)(mask)]")
    assert size == [200, 300]
    assert visit.page.evaluate("photo.naturalWidth / photo.naturalHeight") == pytest.approx(2 / 3)


def test_a_file_that_is_no_photo_is_told(visiting: Visiting, quiet_server: RunningServer) -> None:
    visit = visiting(quiet_server)
    text: Any = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not a picture"}
    visit.page.set_input_files("#photo-file", text)
    visit.page.wait_for_selector("#problem:not([hidden])")
    assert "Choose a JPEG, PNG or WebP" in visit.text("#problem")
    assert visit.state == "empty"
