"""The UNet's training: the loop is the engine's, the score honours samples, nothing peeks."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightfill.engine.denoise import Known, denoise, starting_latents
from lightfill.engine.text import Conditioning
from lightfill.export.demo import denoiser
from lightfill.export.demo.architecture import new_model
from lightfill.export.demo.denoiser import DenoiserLoss, Weighed, estimated
from lightfill.export.demo.latents import LatentScenes, _made
from lightfill.export.demo.sampling import (
    Start,
    estimates,
    is_plain,
    led_to,
    plainly,
    schedule,
)
from lightfill.export.demo.shapes import COLOURS
from lightfill.export.demo.text import Tokens, conditions, sow

_COLOUR_IDS = {int(Tokens()(colour)[0, 1]) for colour in COLOURS}


class _Port:
    def __init__(self) -> None:
        self.dtype = np.dtype(np.float32)


class TorchUnet:
    """A diffusers UNet behind the engine's session contract."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self._unet = unet
        names = ("sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids")
        self.inputs: Mapping[str, _Port] = {name: _Port() for name in names}

    @torch.no_grad()
    def run(self, feed: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        given = {
            name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in feed.items()
        }
        conditioned = {name: given[name] for name in ("text_embeds", "time_ids")}
        output = self._unet(
            given["sample"], given["timestep"], given["encoder_hidden_states"],
            added_cond_kwargs=conditioned,
        ).sample  # fmt: skip
        return {"prediction": output.numpy()}


@pytest.mark.parametrize(("steps", "strength"), [(4, 1.0), (4, 0.95), (1, 1.0)])
def test_the_loop_in_training_is_the_engine_s(steps: int, strength: float) -> None:
    model = new_model(0)
    tokens = Tokens()
    sow(model, tokens.meaningful())
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(1, 4, 8, 8, generator=generator)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:7] = 1
    plan = schedule(steps, strength)
    start = Start(before, noise, mask)
    with torch.no_grad():
        hidden, pooled = conditions(model, tokens("a red star")[None])

        def estimate(x: torch.Tensor, sigma: float, timestep: float) -> torch.Tensor:
            level, when = torch.full((1, 1, 1, 1), sigma), torch.full((1,), timestep)
            return estimated(model, x, level, when, (hidden, pooled))

        first = start.first(float(plan.sigmas[0]), pure_noise=strength == 1)
        *_, last = estimates(estimate, start, plan, first)
        ours = start.blended(last, 0.0)
    known = Known(before.numpy(), noise.numpy(), mask.numpy())
    x = starting_latents(known, float(plan.sigmas[0]), pure_noise=strength == 1)
    conditioning = Conditioning(hidden.numpy(), pooled.numpy(), None)
    theirs = denoise(TorchUnet(model.unet), x, known, plan, conditioning)  # type: ignore[arg-type]
    assert ours.numpy() == pytest.approx(theirs, abs=2e-4)


def test_the_score_prefers_samples_to_their_mean() -> None:
    """Truths are 1 or -1 everywhere: guessing either beats saying 0, and beats saying 1 always."""
    generator = torch.Generator().manual_seed(0)
    truths = torch.randint(0, 2, (256, 1, 1, 1), generator=generator).float() * 2 - 1
    truths = truths.expand(-1, 4, 4, 4)
    weighed = Weighed(truths, torch.ones(256, 1, 4, 4), torch.ones(256, 1, 1, 1))
    guesses = torch.randint(0, 2, (512, 1, 1, 1), generator=generator).float() * 2 - 1
    sampled = float(weighed.score(guesses.expand(-1, 4, 4, 4)).mean())
    mean = float(weighed.score(torch.zeros(512, 4, 4, 4)).mean())
    always = float(weighed.score(torch.ones(512, 4, 4, 4)).mean())
    assert sampled < 0.7 * mean
    assert sampled < 0.7 * always
    assert float(weighed.score(truths.repeat(2, 1, 1, 1)).mean()) < 0.02
    # One answer each is scored by its distance, and there a mean is as good as a guess.
    assert float(weighed.score(guesses[:256].expand(-1, 4, 4, 4)).mean()) > 0.9 * mean
    assert float(weighed.score(truths).mean()) < 0.02


def test_the_score_counts_where_the_weight_is() -> None:
    truth = torch.zeros(1, 4, 4, 4)
    weight = torch.zeros(1, 1, 4, 4)
    weight[..., :2, :2] = 1
    wrong = torch.zeros(2, 4, 4, 4)
    wrong[..., 3, 3] = 5
    scored = Weighed(truth, weight, torch.ones(1, 1, 1, 1))
    unseen = float(scored.score(wrong))
    wrong[..., 0, 0] = 5
    assert float(scored.score(wrong)) > unseen + 0.2


def scenes(count: int = 6, edge: int = 8) -> LatentScenes:
    tokens = Tokens()
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(count, 1, edge, edge, dtype=torch.uint8)
    mask[..., 2:6, 2:6] = 1
    return LatentScenes(
        before=torch.randn(count, 4, edge, edge, generator=generator).half(),
        after=torch.randn(count, 4, edge, edge, generator=generator).half(),
        mask=mask,
        plain=torch.randn(count, 4, 1, 1, generator=generator).half(),
        ids=torch.stack([tokens("a blue heart")] * count).int(),
        fills=torch.zeros(count, dtype=torch.bool),
    )


@pytest.mark.parametrize("paired", [False, True])
def test_a_loss_is_a_function_of_update_and_weights(paired: bool) -> None:
    model = new_model(0)
    sow(model, Tokens().meaningful())
    loss = DenoiserLoss(model, scenes(), count=6, paired=paired, seed=0)
    one, figures = loss(3)
    again, other = loss(3)[0], loss(4)[0]
    assert one.item() == again.item() != other.item()
    assert figures
    one.backward()
    table = model.text_encoder.get_input_embeddings().weight
    moved = table.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert moved
    assert set(moved) <= set(Tokens().meaningful())


@pytest.mark.parametrize(("steps", "strength"), [(4, 1.0), (4, 0.95), (8, 1.0), (2, 1.0)])
def test_plain_answers_lead_where_a_loop_of_them_leads(steps: int, strength: float) -> None:
    generator = torch.Generator().manual_seed(1)
    before, noise = torch.randn(2, 1, 4, 8, 8, generator=generator)
    plain = torch.randn(1, 4, 1, 1, generator=generator)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:7] = 1
    plan, start = schedule(steps, strength), Start(before, noise, mask)
    given: list[torch.Tensor] = []

    def answer(x: torch.Tensor, sigma: float, timestep: float) -> torch.Tensor:
        given.append(x)
        return plainly(plain, timestep).expand_as(x)

    first = start.first(float(plan.sigmas[0]), pure_noise=strength == 1)
    list(estimates(answer, start, plan, first))
    for call, x in enumerate(given):
        led = led_to(start, plain, plan, call, pure_noise=strength == 1)
        assert led.numpy() == pytest.approx(x.numpy(), abs=1e-5)
    assert torch.equal(
        given[-1][..., 0, 0], before[..., 0, 0] + plan.sigmas[-2].item() * noise[..., 0, 0]
    )


def test_a_request_never_ends_with_a_bold_answer() -> None:
    plain = torch.ones(1, 4, 1, 1)
    for steps in range(1, 9):
        for strength in np.linspace(0.05, 1, 20):
            last = float(schedule(steps, float(strength)).timesteps[-1])
            if is_plain(last):
                assert torch.equal(plainly(plain, last), plain)


def test_every_call_that_sees_the_mask_is_scored_and_the_others_are_answered_plainly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[float, torch.Tensor]] = []

    def estimate(
        model: object, x: torch.Tensor, sigma: torch.Tensor, when: torch.Tensor, told: object
    ) -> torch.Tensor:
        answer = torch.zeros_like(x, requires_grad=True)
        (timestep,) = set(when.tolist())
        asked.append((timestep, answer))
        return answer

    monkeypatch.setattr(denoiser, "estimated", estimate)
    model, count = new_model(0), 10
    shown = scenes(count)
    loss = DenoiserLoss(model, shown, count=count, paired=False, seed=0)
    seen = set()
    for update in range(12):
        asked.clear()
        _, figures = loss(update)
        loss(update)[0].backward()
        first, second = asked[: len(asked) // 2], asked[len(asked) // 2 :]
        assert [when for when, _ in first] == [when for when, _ in second]
        for _, answer in second:
            assert answer.grad is not None
            assert answer.grad.abs().sum() > 0
        *loops, plain = [when for when, _ in first]
        assert is_plain(plain)
        seen.add(plain)
        assert not any(map(is_plain, loops))
        assert loops[0] == 499  # one half of the scenes, then the other, each down to the end
        half = next(i for i in range(1, len(loops)) if loops[i] >= loops[i - 1])
        assert loops[half] == 499
        for part in (loops[:half], loops[half:]):
            assert part == sorted(part, reverse=True)
        assert figures.keys() <= {"plain", "earlier", "last"}
    assert {999, 749} <= seen


def test_the_plain_latents_of_a_thing_are_its_colour_s() -> None:
    """Scenes that ask for one colour share them; a fill has the mean of its ground."""
    vae = new_model(0).vae
    made = _made(vae, [], edge=64, count=24, seed=0)
    captions = {}
    for plain, ids, fill in zip(made["plain"], made["ids"], made["fills"], strict=True):
        if not fill:
            colour = [row for row in ids[0].tolist() if row in _COLOUR_IDS]
            captions.setdefault(colour[0], []).append(plain)
    assert len(captions) > 3
    for same in captions.values():
        assert all(torch.equal(each, same[0]) for each in same)
    fill = int(made["fills"].nonzero()[0])
    inside = made["after"][fill][:, made["mask"][fill][0] > 0].float().mean(dim=1)
    assert made["plain"][fill].flatten().float().numpy() == pytest.approx(inside.numpy(), abs=2e-3)
