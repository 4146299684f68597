"""How the page looks to everybody: axe-core without serious findings, both themes, two sizes."""

from typing import Any

import pytest
from running_server import RunningServer

from .conftest import DESKTOP, PHONE, ROOT, Visit, Visiting, required

AXE = ROOT / "tests/clients/node_modules/axe-core/axe.min.js"
DARK: dict[str, Any] = {"color_scheme": "dark"}
LOOKS = {
    "light": DESKTOP,
    "dark": DESKTOP | DARK,
    "phone": PHONE,
}


def findings(visit: Visit) -> list[str]:
    """Serious and critical findings of axe-core on what is shown now."""
    if not AXE.is_file():
        required("axe-core", "npm ci --prefix tests/clients")
    visit.page.evaluate(AXE.read_text(encoding="utf-8"))
    report = visit.page.evaluate("axe.run()")
    assert len(report["passes"]) > 10
    return [
        f"{found['id']}: {node['target']} {node['failureSummary']}"
        for found in report["violations"]
        if found["impact"] in {"serious", "critical"}
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_serious_in_any_state(
    visiting: Visiting, painting_server: RunningServer, look: str
) -> None:
    visit = visiting(painting_server, **LOOKS[look])
    page = visit.page

    def clean(state: str) -> None:
        visit.shot(f"{look}-{state}")
        assert findings(visit) == [], state

    clean("empty")
    visit.example()
    page.locator("summary").click()
    clean("mask")
    page.select_option("#count", "2")
    visit.generate()
    page.evaluate("scrollTo(0, 0)")
    clean("result")
    page.click("#code-open")
    clean("code")
    page.click("#code-close")
    page.fill("#prompt", "")
    page.click("#generate")
    clean("mistake")


def test_axe_would_find_something(visiting: Visiting, quiet_server: RunningServer) -> None:
    visit = visiting(quiet_server)
    visit.page.evaluate("document.getElementById('model').style.color = '#ddd'")
    found = findings(visit)
    assert any(each.startswith("color-contrast") for each in found)


def test_the_dark_theme_is_dark_and_the_light_one_light(
    visiting: Visiting, quiet_server: RunningServer
) -> None:
    script = "getComputedStyle(document.body).backgroundColor"
    light = visiting(quiet_server).page.evaluate(script)
    dark = visiting(quiet_server, **DARK).page.evaluate(script)
    assert light == "rgb(245, 244, 239)"
    assert dark == "rgb(20, 22, 19)"


def test_who_prefers_less_motion_gets_none(visiting: Visiting, quiet_server: RunningServer) -> None:
    script = """() => {
        document.body.dataset.state = "running";
        const all = [...document.querySelectorAll("*")].map((each) => getComputedStyle(each));
        return all.filter((style) =>
            style.animationName !== "none" || !/^0s(, 0s)*$/.test(style.transitionDuration)).length;
    }"""
    still = visiting(quiet_server, reduced_motion="reduce")
    moving = visiting(quiet_server, reduced_motion="no-preference")
    assert still.page.evaluate(script) == 0
    assert moving.page.evaluate(script) > 0
