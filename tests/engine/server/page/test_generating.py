"""From the button to the picture: progress, previews, cancel, comparison, history, download."""

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running_server import RunningServer

from .conftest import PHONE, PacedEndpoint, Visit, Visiting

ROOT = Path(__file__).parents[4]


def pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_picture_is_made_step_by_step_compared_and_downloaded(
    visiting: Visiting, paced_server: RunningServer, paced: type[PacedEndpoint], tmp_path: Path
) -> None:
    visit = visiting(paced_server)
    page = visit.page
    visit.example()
    visit.shot("1-mask")
    page.click("#generate")
    page.wait_for_selector("#progress-text:has-text('Step 1 of 4')")
    for step in (1, 2):
        page.wait_for_selector(f"#preview[data-shown='{step}']", state="attached")
        if step == 2:
            visit.shot("2-preview")
        paced.steps.release()
    page.wait_for_selector("#progress-text:has-text('Step 3 of 4')")
    assert page.locator("#progress-bar").get_attribute("value") == "0.75"
    assert page.is_visible("#preview")
    assert not page.is_visible("#generate")
    assert page.locator("#announcer").inner_text().startswith("Step")
    paced.free.set()
    visit.until("result")
    visit.shot("3-result")

    page.wait_for_selector("#preview[data-shown='4']", state="attached")
    assert re.fullmatch(r"Done in [0-9.]+ seconds", page.locator("#announcer").inner_text())
    seed = int(page.input_value("#seed"))
    assert f"Seed {seed}" in visit.text("#facts").replace("\n", " ")

    with page.expect_download() as saved:
        page.click("#download")
    assert saved.value.suggested_filename == f"lightfill-{seed}.jpg"
    target = tmp_path / "saved.jpg"
    saved.value.save_as(target)
    painted = pixels(target.read_bytes())
    photo = pixels((ROOT / "engine/server/page/example/photo.jpg").read_bytes())
    assert painted.shape == photo.shape == (400, 600, 3)
    mask = pixels((ROOT / "engine/server/page/example/mask.png").read_bytes())[..., 0] > 127
    assert np.abs(painted - photo)[~mask].mean() < 4  # JPEG
    red, green, blue = painted[mask].mean(axis=0)
    assert green > 1.5 * max(red, blue)  # "a green ball"

    compared(visit)


def compared(visit: Visit) -> None:
    """The slider shows the photo left of it and the picture right of it, by mouse and by key."""
    page = visit.page
    divider = page.locator("#divider")
    # The first paint of a decoded picture may lag a frame; screenshots wait for it.
    mask_at = (530 / 600, 330 / 400)

    def colour() -> np.ndarray:
        shown = pixels(page.locator("#compare").screenshot())
        return shown[int(mask_at[1] * shown.shape[0]), int(mask_at[0] * shown.shape[1])]

    divider.fill("0")
    after = colour()
    divider.fill("100")
    before = colour()
    assert after[1] > before[1] + 30
    divider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert divider.input_value() == "1"
    page.keyboard.press("End")
    assert divider.get_attribute("aria-valuetext") == "100 % before"
    box = page.locator("#compare").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 20)
    assert int(divider.input_value()) == pytest.approx(30, abs=2)


def test_history_brings_everything_back_and_a_result_can_be_the_next_photo(
    visiting: Visiting, painting_server: RunningServer
) -> None:
    visit = visiting(painting_server)
    page = visit.page
    visit.example()
    page.select_option("#count", "2")
    page.check("#steps input[value='2']", force=True)
    visit.generate()
    first = int(page.input_value("#seed"))
    assert page.locator("#variants button").count() == 2
    page.click("#variants button >> nth=1")
    assert str(first + 1) in (page.get_attribute("#download", "download") or "")

    page.fill("#prompt", "a red ball")
    page.select_option("#count", "1")
    page.click("#edit")
    page.click("#invert")
    page.click("#undo")
    page.locator("summary").click()
    page.select_option("#format", "png")
    visit.generate()
    assert page.locator("#history button").count() == 2
    assert (
        page.get_attribute("#download", "download") == f"lightfill-{page.input_value('#seed')}.png"
    )

    page.click("#history button >> nth=1")
    page.wait_for_selector("#history li:nth-child(2) [aria-current]")
    assert page.input_value("#prompt") == "a green ball"
    assert page.input_value("#seed") == str(first)
    assert page.get_attribute("#seed-lock", "aria-pressed") == "true"
    assert page.is_checked("#steps input[value='2']")
    assert page.input_value("#format") == "jpeg"
    old = page.locator("#after").get_attribute("src")
    picture = page.evaluate(SHOWN)
    visit.page.select_option("#count", "1")
    page.click("#generate")
    page.wait_for_selector("#history button >> nth=2")
    assert page.locator("#after").get_attribute("src") != old
    assert page.evaluate(SHOWN) == picture  # the same seed, the same picture

    page.click("#reuse")
    visit.until("edit")
    assert visit.painted_share() == 0
    assert page.evaluate("photo.naturalWidth") == 600


SHOWN = """async () => {
    const { decoded } = await import("/page/photo.js");
    const image = document.getElementById("after");
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""


def test_a_crop_is_compared_with_the_part_of_the_photo_that_it_shows(
    visiting: Visiting, painting_server: RunningServer
) -> None:
    visit = visiting(painting_server)
    page = visit.page
    visit.example()
    page.locator("summary").click()
    page.uncheck("#around")
    page.select_option("#format", "png")
    page.select_option("#size", "custom")
    page.fill("#width", "128")
    page.fill("#height", "256")
    visit.generate()
    assert "128 \N{MULTIPLICATION SIGN} 256" in visit.text("#facts")
    page.locator("#divider").fill("100")
    before = pixels(page.locator("#compare").screenshot())
    page.locator("#divider").fill("0")
    after = pixels(page.locator("#compare").screenshot())
    shape = after.shape
    assert shape[1] / shape[0] == pytest.approx(0.5, abs=0.02)
    top = slice(0, int(0.5 * shape[0]))  # the mask is further down
    assert np.abs(after[top] - before[top]).mean() < 6
    assert np.abs(after - before).mean() > 1


def test_cancel_stops_between_two_steps_and_the_next_request_runs(
    visiting: Visiting, paced_server: RunningServer, paced: type[PacedEndpoint]
) -> None:
    visit = visiting(paced_server)
    page = visit.page
    visit.example()
    page.click("#generate")
    page.wait_for_selector("#progress-text:has-text('Step 1 of 4')")
    page.click("#cancel")
    visit.until("edit")
    assert page.locator("#announcer").inner_text() == "Cancelled"
    assert page.is_hidden("#problem")
    assert page.is_hidden("#history")
    paced.free.set()
    visit.generate()


def test_a_second_tab_waits_in_the_queue_and_may_leave_it(
    visiting: Visiting, paced_server: RunningServer, paced: type[PacedEndpoint]
) -> None:
    first, second = visiting(paced_server), visiting(paced_server)
    for visit in (first, second):
        visit.example()
    first.page.click("#generate")
    first.page.wait_for_selector("#progress-text:has-text('Step 1')")
    second.page.click("#generate")
    second.page.wait_for_selector("#progress-text:has-text('Next in the queue')")
    second.page.click("#cancel")
    second.until("edit")
    paced.free.set()
    first.until("result")


def test_a_lost_connection_is_made_again_and_the_request_goes_on(
    visiting: Visiting, paced_server: RunningServer, paced: type[PacedEndpoint]
) -> None:
    visit = visiting(paced_server)
    visit.expected = ["ERR_", "net::"]
    page = visit.page
    visit.example()
    page.click("#generate")
    page.wait_for_selector("#progress-text:has-text('Step 1 of 4')")
    page.route("**/status/stream**", lambda route: route.abort())
    cut_connections(paced_server)
    page.wait_for_selector("#progress-text:has-text('Connection lost, trying again in')")
    paced.steps.release(2)
    page.unroute("**/status/stream**")
    page.wait_for_selector("#progress-text:has-text('Step 3 of 4')")
    page.wait_for_selector("#preview[data-shown='3']", state="attached")
    paced.free.set()
    visit.until("result")
    assert page.locator("#history button").count() == 1


def cut_connections(server: RunningServer) -> None:
    """As when a cable is pulled: every connection of the server ends without a word."""
    for connection in list(server.server.server_state.connections):
        connection.loop.call_soon_threadsafe(connection.transport.abort)


def test_what_the_server_refuses_stands_beside_its_field(
    visiting: Visiting, painting_server: RunningServer
) -> None:
    visit = visiting(painting_server)
    visit.expected = ["status of 422"]
    page = visit.page
    visit.example()

    def spoilt(route: Any) -> None:
        body = route.request.post_data_json
        route.continue_(post_data=json.dumps({**body, "strength": 7, "feather": "soft"}))

    page.route("**/queue/**/inpainting", spoilt)
    page.click("#generate")
    page.wait_for_selector("#mistake-strength:not([hidden])")
    assert "less than or equal to 1" in visit.text("#mistake-strength")
    assert page.get_attribute("#strength", "aria-invalid") == "true"
    assert page.is_visible("#mistake-feather")  # its section was opened
    assert page.evaluate("document.activeElement.id") == "strength"
    visit.shot("4-mistakes")
    page.unroute("**/queue/**/inpainting")
    page.locator("#strength").fill("0.9")
    assert page.is_hidden("#mistake-strength")
    visit.generate()
    assert page.is_hidden("#mistake-feather")


def test_what_the_page_sees_itself_is_never_sent(
    visiting: Visiting, quiet_server: RunningServer
) -> None:
    visit = visiting(quiet_server)
    page = visit.page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    page.click("#generate")
    assert visit.text("#mistake-image_url") == "Choose a photo first."
    assert visit.text("#mistake-prompt") == "Say what should be there."
    visit.example()
    page.click("#clear")
    page.fill("#prompt", "")
    page.click("#generate")
    assert visit.text("#mistake-mask_url") == "Paint over what should change first."
    page.fill("#width", "63")
    page.click("#generate")
    assert (
        visit.text("#mistake-image_size") == "Width and height are whole numbers from 64 to 2048."
    )
    assert "POST" not in sent


def test_a_failed_request_says_why_and_can_be_tried_again(
    visiting: Visiting, server: RunningServer, scripted: Any
) -> None:
    visit = visiting(server)
    visit.expected = ["status of 500", "status of 503"]
    page = visit.page
    visit.example()
    page.fill("#prompt", "break")
    page.click("#generate")
    page.wait_for_selector("#problem:not([hidden])")
    assert visit.text("#problem-text") == "Internal Server Error."
    asked = len(scripted.ran)
    page.click("#again")
    page.wait_for_selector("#problem:not([hidden])")
    assert len(scripted.ran) == asked + 1
    assert visit.state == "edit"


def test_a_busy_server_is_asked_again_when_it_says_so(
    visiting: Visiting, painting_server: RunningServer
) -> None:
    visit = visiting(painting_server)
    visit.expected = ["status of 429"]
    page = visit.page
    visit.example()
    busy = {"detail": "Too many requests.", "error_type": "queue_full"}
    tries = []

    def refuse_once(route: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            route.fulfill(status=429, json=busy, headers={"retry-after": "2"})
        else:
            route.continue_()

    page.route("**/queue/**/inpainting", refuse_once)
    page.click("#generate")
    page.wait_for_selector("#progress-text:has-text('busy, trying again in 2 s')")
    visit.until("result")
    assert len(tries) == 2


def test_a_server_that_asks_for_a_key_gets_one_kept_in_the_tab(
    visiting: Visiting, painting_server: RunningServer
) -> None:
    """The key is refused once, then taken; it goes with every call and is in no other storage."""
    visit = visiting(painting_server)
    visit.expected = ["status of 401"]
    page = visit.page
    seen: list[str] = []

    def guarded(route: Any) -> None:
        shown = route.request.headers.get("authorization", "")
        seen.append(shown)
        if shown == "Key id:right":
            route.continue_()
            return
        detail = "No user found for Key ID and Secret" if shown else "Authentication is required."
        route.fulfill(status=401, json={"detail": detail})

    page.route("**/queue/**", guarded)
    visit.example()
    page.click("#generate")
    page.wait_for_selector("#key[open]")
    visit.shot("5-key")
    page.click("#key button[type='submit']")
    assert visit.text("#mistake-key") == "Enter a key."
    page.fill("#key-value", "id:wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#mistake-key:has-text('No user found')")
    page.fill("#key-value", "id:right")
    page.keyboard.press("Enter")
    visit.until("result")
    assert seen[:3] == ["", "Key id:wrong", "Key id:right"]
    assert set(seen[3:]) == {"Key id:right"}
    kept = page.evaluate("[sessionStorage.getItem('lightfill.key'), localStorage.length]")
    assert kept == ["id:right", 0]
    page.click("#code-open")
    page.click("#language-python")
    code = page.locator("#code-text").inner_text()
    assert "id:right" not in code
    assert "FAL_KEY" in code


def test_only_the_models_steps_and_checkers_are_offered(
    visiting: Visiting, quiet_server: RunningServer
) -> None:
    visit = visiting(quiet_server)
    page = visit.page

    def lesser(route: Any) -> None:
        model = route.fetch().json()
        route.fulfill(json={**model, "steps": [2, 8], "safety_checker": None, "any_size": False})

    page.route("**/api/model", lesser)
    page.reload()
    page.wait_for_selector("#model:not(:empty)")
    assert page.locator("#steps input").evaluate_all("all => all.map((i) => i.value)") == ["2", "8"]
    assert page.is_checked("#steps input[value='8']")
    page.locator("summary").click()
    assert page.is_disabled("#safety")
    assert not page.is_checked("#safety")
    assert "lightfill[safety]" in visit.text("#safety-hint")
    assert page.input_value("#size") == "square_hd"


def test_everything_is_done_by_keyboard_alone(
    visiting: Visiting, painting_server: RunningServer
) -> None:
    """Tab from the top of the page to every part; nothing is clicked."""
    visit = visiting(painting_server)
    page = visit.page
    keys = page.keyboard

    def reach(element: str) -> None:
        for _ in range(80):
            if page.evaluate("document.activeElement.id") == element:
                return
            keys.press("Tab")
        raise AssertionError(f"#{element} cannot be reached")

    reach("example")
    keys.press("Enter")
    visit.until("edit")
    page.wait_for_selector("#undo:enabled")
    reach("clear")
    keys.press("Enter")
    reach("mask")
    keys.down(" ")
    for _ in range(8):
        keys.press("ArrowDown")
    keys.up(" ")
    assert visit.painted_share() > 0.005
    reach("prompt")
    keys.press("Control+a")
    keys.type("a blue ball")
    keys.press("Tab")
    assert page.evaluate("document.activeElement.id") == "generate"
    keys.press("Enter")
    visit.until("result")
    reach("divider")
    keys.press("End")
    assert page.locator("#divider").input_value() == "100"
    reach("edit")
    reach("code-open")
    keys.press("Enter")
    assert page.is_visible("#code-text")
    keys.press("Escape")
    assert page.evaluate("document.activeElement.id") == "code-open"
    with page.expect_download() as saved:
        reach("download")
        keys.press("Enter")
    assert saved.value.suggested_filename.endswith(".jpg")


def test_on_a_phone_nothing_sticks_out_and_a_picture_is_made(
    visiting: Visiting, painting_server: RunningServer
) -> None:
    narrow = {**PHONE, "viewport": {"width": 360, "height": 740}}
    visit = visiting(painting_server, **narrow)
    page = visit.page
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 360
    page.tap("#example")
    visit.until("edit")
    page.wait_for_selector("#undo:enabled")
    assert page.evaluate(width) <= 360
    small = page.locator("button:visible, select:visible, summary:visible").evaluate_all(
        "all => all.map((e) => [e.id, e.getBoundingClientRect()])"
        ".filter(([, box]) => box.height < 36 || box.width < 36).map(([id]) => id)"
    )
    assert small == []
    page.tap("#generate")
    visit.until("result")
    assert page.evaluate(width) <= 360
    visit.shot("6-phone")
    page.tap("#code-open")
    assert page.evaluate(width) <= 360
