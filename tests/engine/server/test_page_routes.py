"""The page's files on the wire: caching, types, and that nothing in them comes from elsewhere."""

import re
from pathlib import Path

import pytest
from running_server import RunningServer

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "engine/server/page"
FILES = sorted(path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file())
TYPES = {
    "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml", "jpg": "image/jpeg",
    "png": "image/png",
}  # fmt: skip


def test_every_file_is_served_once_and_then_known(server: RunningServer) -> None:
    with server.client() as client:
        for name in FILES:
            reply = client.get(f"/page/{name}")
            assert (reply.status_code, reply.content) == (200, (PAGE / name).read_bytes())
            assert reply.headers["content-type"] == TYPES[name.rpartition(".")[2]]
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["cache-control"] == "no-cache"
            tag = reply.headers["etag"]
            for shown in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                again = client.get(f"/page/{name}", headers={"if-none-match": shown})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == tag
            assert client.get(f"/page/{name}", headers={"if-none-match": '"x"'}).status_code == 200
            head = client.head(f"/page/{name}")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(reply.content))


def test_the_page_may_load_nothing_from_elsewhere(server: RunningServer) -> None:
    with server.client() as client:
        reply = client.get("/")
        assert reply.content == (PAGE / "index.html").read_bytes()
        policy = dict(
            part.strip().split(" ", 1)
            for part in reply.headers["content-security-policy"].split(";")
        )
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in reply.headers["content-security-policy"]
    for name in FILES:
        if name.endswith((".html", ".css", ".js", ".svg")):
            text = (PAGE / name).read_text(encoding="utf-8")
            found = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text))
            assert found <= {"http://www.w3.org"}, name
            assert not re.search(r"\son[a-z]+=|\sstyle=|<script(?![^>]*src=)", text), name


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/nothing.js", "/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd"],
)
def test_what_is_no_file_of_the_page_is_not_there(server: RunningServer, path: str) -> None:
    with server.client() as client:
        reply = client.get(path)
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/json"


def test_no_module_of_the_page_is_longer_than_a_room() -> None:
    for name in FILES:
        if name.endswith((".js", ".css", ".html")):
            lines = (PAGE / name).read_text(encoding="utf-8").splitlines()
            assert len(lines) <= 300, name


def test_every_file_the_page_names_is_there() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:href|src)="page/([^"#]+)', html))
    assert named <= set(FILES)
    for name in FILES:
        if name.endswith(".js"):
            text = (PAGE / name).read_text(encoding="utf-8")
            assert {each[2:] for each in re.findall(r'from "(\./[^"]+)"', text)} <= set(FILES)
    symbols = set(re.findall(r"page/icons\.svg#([a-z]+)", html))
    drawn = set(re.findall(r'symbol id="([a-z]+)"', (PAGE / "icons.svg").read_text()))
    assert symbols <= drawn
