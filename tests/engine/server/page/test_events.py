"""The event stream's parser, in the browser: any bytes in any chunks, and what it retries."""

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page
from running_server import RunningServer

from .conftest import Visit

PARSE = """async (chunks) => {
    const { eventsOf } = await import("/page/events.js");
    const body = new ReadableStream({
        start(controller) {
            for (const chunk of chunks) controller.enqueue(new Uint8Array(chunk));
            controller.close();
        },
    });
    const found = [];
    for await (const event of eventsOf(body)) found.push(event);
    return found;
}"""


@pytest.fixture(scope="module")
def tab(chromium: Browser, quiet_server: RunningServer) -> Page:
    """One tab for the whole module: nothing is changed on it."""
    return Visit(chromium.new_page(), quiet_server.origin).page


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=4),
    st.lists(st.integers(0, 400), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_are_the_same_however_the_bytes_are_cut(
    tab: Page, events: list[dict[str, str]], cuts: list[int], newline: str
) -> None:
    text = "".join(
        f": ping{newline}{newline}data: {json.dumps(event, ensure_ascii=False)}{newline}{newline}"
        for event in events
    )
    data = text.encode("utf-8", "surrogatepass")
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunks = [list(data[a:b]) for a, b in pairwise(places)]
    assert tab.evaluate(PARSE, chunks) == events


def test_what_is_cut_off_in_the_middle_is_no_event(tab: Page) -> None:
    assert tab.evaluate(PARSE, [list(b'data: {"a": 1}\n\ndata: {"b"')]) == [{"a": 1}]
