"""Every kind of input as bytes, and results as URLs that give nothing away."""

import base64
import io
import os
import subprocess
import sys
import textwrap
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_server import picture, serving
from PIL import Image, PngImagePlugin

from lightfill.engine.errors import FileDownloadError, FileTooLarge, InvalidInput
from lightfill.engine.fal.files import Files
from lightfill.engine.fal.settings import Settings
from lightfill.engine.images import decode_mask, decode_photo

PUBLIC = "https://fill.example/lightfill"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def files(settings: Settings) -> Files:
    return Files(settings)


def test_what_comes_over_the_wire(files: Files, settings: Settings) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    assert files.read_input(uri, "image_url") == picture()
    assert files.read_input(files.store(b"abc", "text/plain"), "image_url") == b"abc"
    assert files.read_input(b"abc", "image_url") == b"abc"
    with serving("127.0.0.1") as server:
        open_files = Files(replace(settings, allow_private_addresses=True))
        url = f"http://127.0.0.1:{server.port}/good"
        assert open_files.read_input(url, "image_url") == picture()
        with pytest.raises(FileDownloadError, match="not on the public internet"):
            files.read_input(url, "image_url")
        assert server.connections == 1


def test_paths_pictures_and_arrays_only_from_this_process(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(picture())
    opened, array = Image.open(io.BytesIO(picture())), np.zeros((4, 4), bool)
    for text in (path, str(path), path.as_uri()):
        assert files.read_input(text, "f", local=True) == picture()
        with pytest.raises(InvalidInput):
            files.read_input(text, "f")
    for value in (opened, array):
        assert files.read_input(value, "f", local=True) is value
        with pytest.raises(InvalidInput, match="is no file; pass an http"):
            files.read_input(value, "f")


@pytest.mark.parametrize("value", [None, 5, [], {}, object()])
def test_what_is_no_file_at_all(files: Files, value: Any) -> None:
    for local in (False, True):
        with pytest.raises(InvalidInput, match=r"^image_url: \w+ is no file"):
            files.read_input(value, "image_url", local=local)


def test_local_paths_that_cannot_be_read(files: Files, settings: Settings, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    large = tmp_path / "large"
    large.write_bytes(b"x" * 11)
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent", Path("\0")):
        with pytest.raises(FileDownloadError, match="check the path"):
            files.read_input(path, "image_url", local=True)
    with pytest.raises(FileTooLarge):
        Files(replace(settings, max_upload_bytes=10)).read_input(large, "image_url", local=True)


def test_bytes_have_the_limit_of_downloads(settings: Settings) -> None:
    files = Files(replace(settings, max_download_bytes=3))
    assert files.read_input(b"abc", "image_url") == b"abc"
    for value in (b"abcd", "data:,abcd"):
        with pytest.raises(FileTooLarge):
            files.read_input(value, "image_url")


def test_urls_are_file_urls_until_a_server_offers_them(settings: Settings) -> None:
    url = Files(settings).store(b"abc", "text/plain")
    assert url.startswith("file://")
    with urllib.request.urlopen(url) as opened:
        assert opened.read() == b"abc"
    served = Files(replace(settings, public_url=PUBLIC))
    public = served.store(b"abc", "text/plain")
    assert public.startswith(f"{PUBLIC}/files/")
    assert served.read_input(f"{public}?download=1", "f") == b"abc"
    assert served.read_input(url, "f") == b"abc", "from before the server was there"


def test_stored_urls_are_never_fetched(settings: Settings) -> None:
    """A name that is unknown below our own URL is an error at once, not a request to ourselves."""
    files = Files(replace(settings, public_url=PUBLIC))
    for tail in ("0" * 32 + ".png", "../../etc/passwd", "", "%2e%2e/x"):
        with pytest.raises(FileDownloadError, match="no such stored file"):
            files.read_input(f"{PUBLIC}/files/{tail}", "image_url")
    root = settings.files_dir.as_uri()
    for tail in ("x", "../queue.sqlite3", "..%2fqueue.sqlite3", "aa/../../queue.sqlite3"):
        with pytest.raises(FileDownloadError, match="no such stored file"):
            files.read_input(f"{root}/{tail}", "image_url")


def test_a_stored_file_is_open_to_its_owner(files: Files) -> None:
    url = files.store(b"abc", "text/plain", "a.txt", owner="me")
    assert files.read_input(url, "f", owner="me") == b"abc"
    assert files.open(url, owner="me") == files.open(files.open(url).name)
    with pytest.raises(FileDownloadError, match=r"^f: no such stored file"):
        files.read_input(url, "f", owner="you")
    with pytest.raises(FileDownloadError):
        files.open(url, owner="you")


def test_retention_is_the_settings_unless_said_otherwise(settings: Settings) -> None:
    files = Files(replace(settings, file_retention_s=0.001))
    short, long = files.store(b"a", "x/y"), files.store(b"b", "x/y", expires_s=60)
    time.sleep(0.01)
    with pytest.raises(FileDownloadError):
        files.open(short)
    assert files.sweep() == 1
    assert files.open(long).size == 1


def revealing() -> Image.Image:
    """A result that carries a prompt in its info, as pictures made by other tools do."""
    made = Image.open(io.BytesIO(picture()))
    made.load()
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "secret prompt")
    exif = Image.Exif()
    exif[0x010E] = "secret prompt"
    buffer = io.BytesIO()
    made.save(buffer, "PNG", pnginfo=text, exif=exif)
    return Image.open(buffer)


@pytest.mark.parametrize(
    ("file_format", "content_type"), [("jpeg", "image/jpeg"), ("png", "image/png")]
)
def test_results_are_files_or_data_uris_that_carry_pixels_only(
    files: Files, file_format: str, content_type: str
) -> None:
    stored = files.store_picture(revealing(), file_format, owner="me")
    inline = files.store_picture(revealing(), file_format, sync_mode=True)
    assert inline.url.startswith(f"data:{content_type};base64,")
    assert (stored.width, stored.height, stored.content_type) == (32, 32, content_type)
    data = files.read_input(stored.url, "f", owner="me")
    assert data == files.read_input(inline.url, "f")
    assert isinstance(data, bytes)
    assert b"secret" not in data
    assert b"Exif" not in data
    written = Image.open(io.BytesIO(data))
    assert written.format == file_format.upper()
    if file_format == "png":
        assert np.array_equal(np.asarray(written), np.asarray(Image.open(io.BytesIO(picture()))))
    else:
        qualities = Image.new("RGB", (8, 8))
        buffer = io.BytesIO()
        qualities.save(buffer, "JPEG", quality=95)
        assert written.quantization == Image.open(buffer).quantization  # type: ignore[attr-defined]
    assert files.open(stored.url).owner == "me"
    with pytest.raises(FileDownloadError):
        files.open(stored.url, owner="you")


def test_sync_mode_stores_nothing(files: Files, settings: Settings) -> None:
    files.store_picture(revealing(), "jpeg", sync_mode=True)
    assert not settings.files_dir.exists()


def test_keep_leaves_urls_alone_and_stores_the_rest(files: Files, tmp_path: Path) -> None:
    stored = files.store(b"abc", "text/plain")
    for url in ("https://a.test/x", "data:,x", stored):
        assert files.keep(url, "image_url") == url
    path = tmp_path / "x.jpg"
    path.write_bytes(picture("JPEG"))
    for value in (path, str(path), picture("JPEG")):
        assert files.read_input(files.keep(value, "image_url"), "image_url") == picture("JPEG")
    with pytest.raises(FileDownloadError, match="check the path"):
        files.keep("no such file.png", "image_url")


def kinds() -> dict[str, Any]:
    """Pictures and arrays of every kind a Python caller may have."""
    random = np.random.RandomState(1)
    rgb = Image.fromarray(random.randint(0, 256, (6, 5, 3), np.uint8))
    rgba = Image.fromarray(random.randint(0, 256, (6, 5, 4), np.uint8))
    see_through = rgb.convert("P")
    see_through.info["transparency"] = 3
    turned = rgb.copy()
    turned.getexif()[0x0112] = 6
    converted = ("1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")
    return {f"picture {mode}": rgb.convert(mode) for mode in converted} | {
        "picture F": Image.fromarray(random.rand(6, 5).astype(np.float32)),
        "picture I": rgb.convert("L").convert("I"),
        "picture PA": rgba.convert("PA"),
        "picture RGBA": rgba,
        "picture La": rgba.convert("LA").convert("La"),
        "picture RGBa": rgba.convert("RGBa"),
        "picture I;16": Image.fromarray(random.randint(0, 65536, (6, 5)).astype(np.uint16)),
        "picture with a transparent colour": see_through,
        "picture on its side": turned,
        "array bool": random.rand(6, 5) > 0.5,
        "array uint16": random.randint(0, 65536, (6, 5, 3)).astype(np.uint16),
        "array float": random.rand(6, 5, 3),
        "array RGBA": random.randint(0, 256, (6, 5, 4), np.uint8),
        "array column": random.randint(0, 256, (6, 5, 1), np.uint8),
    }


@pytest.mark.parametrize("kind", kinds())
def test_a_kept_picture_is_the_same_photo_and_the_same_mask(files: Files, kind: str) -> None:
    value = kinds()[kind]
    kept = files.read_input(files.keep(value, "image_url"), "image_url")
    assert isinstance(kept, bytes)
    assert np.array_equal(decode_photo(kept).pixels, decode_photo(value).pixels)
    levels = decode_mask(kept).astype(int) - decode_mask(value)
    assert abs(levels).max() <= (1 if kind == "picture YCbCr" else 0)


def test_a_kept_photo_keeps_its_colour_profile(files: Files) -> None:
    from PIL import ImageCms

    photo = Image.open(io.BytesIO(picture()))
    photo.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = files.read_input(files.keep(photo, "image_url"), "image_url")
    assert decode_photo(kept).icc_profile == photo.info["icc_profile"]


def test_without_the_extra_a_url_says_what_to_install() -> None:
    code = """
    import sys
    sys.modules["httpcore2"] = None
    from lightfill import LightfillError
    from lightfill.engine.fal.files import Files
    from lightfill.engine.fal.settings import Settings

    files = Files(Settings())
    assert files.read_input("data:,abc", "image_url") == b"abc"
    try:
        files.read_input("https://a.test/", "image_url")
    except LightfillError as error:
        print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "`pip install 'lightfill[fal]'`" in done.stdout
