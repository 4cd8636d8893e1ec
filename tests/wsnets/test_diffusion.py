"""Diffusion: identities of the schedule, conversions, samplers that a perfect denoiser makes exact, guidance."""

from itertools import product

import pytest
import torch
from torch import Tensor

from wsnets.diffusion import Diffusion, counted_noise, guided

KINDS = list(product(("cosine", "linear"), ("v", "x0", "eps")))


def perfect(diffusion: Diffusion, mean: Tensor, covariance: Tensor):
    """The denoiser E[target | x_t] of data from a normal distribution: linear in x_t."""

    def denoiser(x: Tensor, t: int) -> Tensor:
        level = diffusion.alpha_bar[t]
        spread = level * covariance + (1 - level) * torch.eye(len(mean), dtype=x.dtype)
        gain = level.sqrt() * covariance @ torch.linalg.inv(spread)
        x0 = mean + (x - level.sqrt() * mean) @ gain.T
        return diffusion.target(x0, (x - level.sqrt() * x0) / (1 - level).sqrt(), t)

    return denoiser


@pytest.fixture
def normal(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    mean = torch.randn(4, generator=generator, dtype=torch.float64)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64) / 2
    return mean, root @ root.T + 0.05 * torch.eye(4, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [10, 1000])
def test_the_schedule_keeps_its_identities(schedule, steps: int):
    diffusion = Diffusion(schedule=schedule, steps=steps)
    betas, level = diffusion.betas, diffusion.alpha_bar
    assert level[0] == 1
    assert torch.allclose(level[1:], (1 - betas).cumprod(0))
    assert (level.diff() < 0).all()
    assert 0 < level[-1] < 1e-3
    assert ((betas > 0) & (betas <= 0.999)).all()
    assert torch.allclose(diffusion.snr[1:] * (1 - level[1:]), level[1:])
    if steps == 1000:
        expected = 1e-4 if schedule == "linear" else 4.1e-5
        assert float(betas[0]) == pytest.approx(expected, rel=0.02)


def test_noised_data_has_the_stated_moments_and_is_what_single_steps_give(generator: torch.Generator):
    diffusion = Diffusion(schedule="linear", steps=20)
    x0 = torch.full((100_000,), 1.5, dtype=torch.float64)
    stepwise = x0
    for beta in diffusion.betas[:7]:
        noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        stepwise = (1 - beta).sqrt() * stepwise + beta.sqrt() * noise
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    at_once = diffusion.noised(x0, torch.full((len(x0),), 7), noise)
    level = diffusion.alpha_bar[7]
    for x in (stepwise, at_once):
        assert float(x.mean()) == pytest.approx(float(level.sqrt()) * 1.5, abs=0.015)
        assert float(x.var()) == pytest.approx(float(1 - level), abs=0.015)


@pytest.mark.parametrize(("schedule", "prediction"), KINDS)
def test_predictions_convert_into_each_other(schedule, prediction, generator: torch.Generator):
    diffusion = Diffusion(schedule=schedule, prediction=prediction, steps=50)
    x0, noise = torch.randn(2, 49, 3, 2, generator=generator, dtype=torch.float64)
    t = torch.arange(1, 50)
    x = diffusion.noised(x0, t, noise)
    found = diffusion.split(x, diffusion.target(x0, noise, t), t)
    torch.testing.assert_close(found[0], x0, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found[1], noise, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_posterior_is_that_of_ho_et_al(schedule):
    diffusion = Diffusion(schedule=schedule, steps=30)
    level, betas = diffusion.alpha_bar, diffusion.betas
    for t in (2, 11, 30):
        variance = (1 - level[t - 1]) / (1 - level[t]) * betas[t - 1]
        assert diffusion.posterior_std(t, t - 1) ** 2 == pytest.approx(float(variance))
        x, x0 = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.3]], dtype=torch.float64)
        e = (x - level[t].sqrt() * x0) / (1 - level[t]).sqrt()
        mean = diffusion.step(x, (x0, e), t, t - 1, diffusion.posterior_std(t, t - 1), None)
        of_x0 = level[t - 1].sqrt() * betas[t - 1] / (1 - level[t])
        of_x = (1 - betas[t - 1]).sqrt() * (1 - level[t - 1]) / (1 - level[t])
        torch.testing.assert_close(mean, of_x0 * x0 + of_x * x)
    assert diffusion.posterior_std(1, 0) == 0


def test_weights_bound_the_error_of_the_data():
    t = torch.arange(1, 101)
    for prediction in ("v", "x0", "eps"):
        diffusion = Diffusion(prediction=prediction, steps=100)
        assert (diffusion.weight(t, 0.0) == 1).all()
        snr = diffusion.snr[t]
        per_x0 = {"v": snr + 1, "x0": torch.ones_like(snr), "eps": snr}[prediction]
        torch.testing.assert_close(diffusion.weight(t, 5.0) * per_x0, snr.clamp_max(5.0))


@pytest.mark.parametrize(("schedule", "prediction"), [("cosine", "v"), ("linear", "eps"), ("cosine", "x0")])
@pytest.mark.parametrize(("method", "eta"), [("ddim", 0.0), ("ddim", 0.5), ("ddpm", 0.0)])
def test_a_perfect_denoiser_gives_the_moments_of_the_data(schedule, prediction, method, eta, normal, generator):
    mean, covariance = normal
    diffusion = Diffusion(schedule=schedule, prediction=prediction, steps=100)

    def noise(_: int) -> Tensor:
        return torch.randn(8000, 4, generator=generator, dtype=torch.float64)

    found = diffusion.sample(perfect(diffusion, mean, covariance), noise, 100, method, eta)
    torch.testing.assert_close(found.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(found.T.cov(), covariance, atol=0.08, rtol=0.08)


@pytest.mark.parametrize(("schedule", "prediction"), KINDS)
def test_ddim_inverts_and_more_steps_invert_better(schedule, prediction, normal, generator: torch.Generator):
    mean, covariance = normal
    diffusion = Diffusion(schedule=schedule, prediction=prediction, steps=600)
    denoiser = perfect(diffusion, mean, covariance)
    root = torch.linalg.cholesky(covariance)
    data = mean + torch.randn(64, 4, generator=generator, dtype=torch.float64) @ root.T
    errors = []
    for steps in (40, 150, 600):
        noise = diffusion.encode(denoiser, data, steps)
        back = diffusion.sample(denoiser, lambda _, noise=noise: noise, steps)
        errors.append(float((back - data).abs().max()))
    assert errors[2] < 0.03
    assert errors[2] < errors[1] < errors[0]
    assert float(noise.std()) == pytest.approx(1.0, abs=0.15)


def test_guidance_one_is_conditional_zero_unconditional_and_the_rest_on_their_line(generator: torch.Generator):
    x = torch.randn(5, 3, generator=generator)

    def with_class(x: Tensor, t: int) -> Tensor:
        return 2 * x + t

    def without(x: Tensor, t: int) -> Tensor:
        return x - t

    assert torch.equal(guided(with_class, without, 1.0)(x, 3), with_class(x, 3))
    assert torch.equal(guided(with_class, without, 0.0)(x, 3), without(x, 3))
    torch.testing.assert_close(guided(with_class, without, 2.5)(x, 3), without(x, 3) + 2.5 * (x + 6))


def test_a_limit_keeps_what_is_found_inside_it_and_changes_nothing_else(normal, generator: torch.Generator):
    mean, covariance = normal
    diffusion = Diffusion(steps=50, prediction="eps")
    start = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    denoiser = perfect(diffusion, mean, covariance)
    free, wide, tight = (diffusion.sample(denoiser, lambda _: start, 50, limit=limit) for limit in (0.0, 50.0, 0.5))
    torch.testing.assert_close(free, wide)
    assert float(tight.abs().max()) <= 0.5


def test_counted_noise_is_normal_and_a_function_of_seed_number_and_step():
    whole = counted_noise(3, range(500), 7, (5, 9))
    assert whole.shape == (500, 5, 9)
    assert torch.equal(whole[[4, 490]], counted_noise(3, [4, 490], 7, (5, 9)))
    assert float(whole.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(whole.std()) == pytest.approx(1.0, abs=0.03)
    assert float(whole.double().pow(4).mean()) == pytest.approx(3.0, abs=0.2)
    for other in (counted_noise(4, range(500), 7, (5, 9)), counted_noise(3, range(500), 8, (5, 9))):
        assert abs(float((whole * other).mean())) < 0.03
    flat = whole.flatten(1).double()
    assert float((flat.T @ flat / 500 - torch.eye(45)).abs().max()) < 0.25


def test_bad_settings_are_named():
    diffusion = Diffusion(steps=20)
    zeros = torch.zeros(2, 3)
    for call, words in (
        (lambda: Diffusion(schedule="square"), "schedule='square': expected one of cosine, linear"),  # type: ignore[arg-type]
        (lambda: Diffusion(prediction="y"), "prediction='y': expected one of v, x0, eps"),  # type: ignore[arg-type]
        (lambda: Diffusion(steps=1), "steps=1: expected"),
        (lambda: diffusion.path(0), "steps=0: expected a whole number from 1 to 20"),
        (lambda: diffusion.path(21), "steps=21: expected"),
        (lambda: diffusion.sample(lambda x, t: x, lambda _: zeros, 5, "euler"), "method='euler': expected"),  # type: ignore[arg-type]
        (lambda: diffusion.sample(lambda x, t: x, lambda _: zeros, 5, eta=2.0), "eta=2.0: expected"),
        (lambda: guided(lambda x, t: x, lambda x, t: x, -1.0), "guidance=-1.0: expected"),
    ):
        with pytest.raises(ValueError, match=words.replace("(", r"\(")):
            call()
