"""What every session over a graph keeps to, on the CPU by ONNX Runtime and by OpenVINO."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from component_feeds import COMPONENTS, FEEDS, SHAPES, random, run_on

from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.errors import ContractViolation, NonFiniteOutput, SessionError
from lightfill.engine.manifest import MANIFEST_NAME
from lightfill.engine.sessions import Session, SessionOptions, open_session

pytestmark = pytest.mark.parametrize("device", ["cpu", "openvino"])


Opened = Callable[[str, str], Session]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


@pytest.fixture(scope="module")
def opened(bundle: Bundle) -> Iterator[Opened]:
    """Sessions that tests share: OpenVINO takes a second to compile one."""
    with ExitStack() as stack:
        yield cache(
            lambda component, device: stack.enter_context(open_session(bundle, component, device))
        )


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_runs_and_repeats_exactly(
    opened: Opened, device: str, component: str
) -> None:
    feed = FEEDS[component]
    before = {name: array.copy() for name, array in feed.items()}
    session = opened(component, device)
    assert (session.component, session.device) == (component, device)
    first, second = session.run(feed), session.run(feed)
    assert {name: array.shape for name, array in first.items()} == SHAPES[component]
    for name, array in first.items():
        assert array.dtype == np.float32
        assert array.std() > 0
        assert (array == second[name]).all()
    assert all((feed[name] == before[name]).all() for name in feed)


@pytest.mark.parametrize("component", COMPONENTS)
def test_wrong_names_are_refused_in_the_contracts_words(
    opened: Opened, device: str, component: str
) -> None:
    feed = dict(FEEDS[component])
    renamed = feed.pop(next(iter(feed)))
    words = f"^{component} takes inputs .* was given .*wrong"
    with pytest.raises(ContractViolation, match=words):
        opened(component, device).run(feed | {"wrong": renamed})


@pytest.mark.parametrize(
    ("component", "name"), [(component, name) for component in FEEDS for name in FEEDS[component]]
)
def test_wrong_dtype_and_rank_of_any_input_are_refused(
    opened: Opened, device: str, component: str, name: str
) -> None:
    feed, session = FEEDS[component], opened(component, device)
    with pytest.raises(ContractViolation, match=rf"^{component} input '{name}' is .*float16$"):
        session.run(feed | {name: feed[name].astype(np.float16)})
    with pytest.raises(ContractViolation, match=rf"^{component} input '{name}' has shape"):
        session.run(feed | {name: feed[name][None]})


def test_fixed_width_and_unequal_batches_are_refused(opened: Opened, device: str) -> None:
    session = opened("unet", device)
    with pytest.raises(ContractViolation, match=r"'sample' has shape .* given .2, 5, 8, 12"):
        session.run(FEEDS["unet"] | {"sample": random(2, 5, 8, 12)})
    with pytest.raises(ContractViolation, match=r"'text_embeds' has shape .* given .1, 48"):
        session.run(FEEDS["unet"] | {"text_embeds": random(1, 48)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_that_comes_out_of_the_runtime_is_an_error(
    bundle: Bundle, device: str, value: float
) -> None:
    latents = FEEDS["vae_decoder"]["latents"].copy()
    latents[0, 0, 0, 0] = value
    with pytest.raises(NonFiniteOutput, match=r"^vae_decoder produced NaN or infinity in 'images'"):
        run_on(bundle, "vae_decoder", device, {"latents": latents})


def test_failure_inside_the_runtime_is_one_sentence(bundle: Bundle, device: str) -> None:
    """Odd sides pass the contract, but the UNet's halves do not fit together again."""
    feed = FEEDS["unet"] | {"sample": random(2, 4, 7, 9)}
    with pytest.raises(
        SessionError, match=rf"^unet failed on {device}: .*; try a smaller"
    ) as caught:
        run_on(bundle, "unet", device, feed)
    assert "\n" not in str(caught.value)


def test_closed_session_raises_and_closes_twice(bundle: Bundle, device: str) -> None:
    session = open_session(bundle, "vae_decoder", device)
    session.close()
    session.close()
    with pytest.raises(SessionError, match=r"vae_decoder is closed; open a new Inpainter"):
        session.run(FEEDS["vae_decoder"])


def test_one_session_serves_many_threads(bundle: Bundle, device: str) -> None:
    with open_session(bundle, "unet", device, options=SessionOptions(threads=1)) as session:
        expected = session.run(FEEDS["unet"])["prediction"]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: session.run(FEEDS["unet"]), range(12)))
    assert all((result["prediction"] == expected).all() for result in results)


def altered_bundle(tmp_path: Path, graph: str, data: bytes) -> Bundle:
    """A copy of the demo bundle in which one graph is another file, correctly listed."""
    root = Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))
    (root / graph).write_bytes(data)
    manifest = json.loads((root / MANIFEST_NAME).read_text())
    manifest["files"][graph] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (root / MANIFEST_NAME).write_text(json.dumps(manifest))
    return Bundle.open(root)


def test_graph_the_runtime_cannot_read_is_one_sentence(tmp_path: Path, device: str) -> None:
    bundle = altered_bundle(tmp_path, "unet/float32.onnx", b"no graph")
    with pytest.raises(
        SessionError, match=rf"^unet cannot be loaded on {device}: .*doctor"
    ) as caught:
        open_session(bundle, "unet", device)
    assert "\n" not in str(caught.value)


def test_graph_of_another_component_breaks_the_contract(tmp_path: Path, device: str) -> None:
    graph = (DEMO_BUNDLE / "vae_encoder/float32.onnx").read_bytes()
    bundle = altered_bundle(tmp_path, "vae_decoder/float32.onnx", graph)
    weights = bundle.root / "vae_decoder/weights.bin"
    shutil.copy(DEMO_BUNDLE / "vae_encoder/weights.bin", weights)
    with pytest.raises(ContractViolation, match=r"^vae_decoder has inputs .*; export the bundle"):
        open_session(bundle, "vae_decoder", device)
