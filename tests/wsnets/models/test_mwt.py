"""MWT: what it adds to the fit, what its reader sees, and how far the classifier's gradient reaches."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from neuralfields.evaluate import evaluate
from neuralfields.grids import image_coords
from neuralfields.render import image
from wsnets.models.mwt import MWT, MWTConfig

CONFIG = MWTConfig(hidden=5, layers=2, steps=3, points=9, depth=2, width=8, head=4, w0=6.0)


@pytest.fixture
def images(generator: Generator) -> Tensor:
    return torch.rand(4, 5, 6, 3, generator=generator, dtype=torch.float64)


@pytest.fixture
def model(generator: Generator) -> MWT:
    return CONFIG.build(3, 7, generator).double().eval()


def test_parameter_count_of_the_example(generator: Generator):
    model = MWTConfig().build(1, 10, generator)
    assert sum(p.numel() for p in model.parameters()) == 2_534_667
    assert model.spec.hidden == (128,) * 5
    assert (model.spec.w0_first, model.spec.w0_hidden) == (10.0, 1.0)
    assert model.reader.beta.shape == (4 * 128, 129)
    assert MWTConfig.large().build(1, 10, generator).spec.hidden == (256,) * 5


def test_images_at_once_equal_single_images(model: MWT, images: Tensor):
    together = model(images)
    assert together.shape == (4, 7)
    alone = torch.cat([model(images[number : number + 1]) for number in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_without_step_sizes_all_fields_are_the_start_and_all_answers_equal(model: MWT, images: Tensor):
    with torch.no_grad():
        for rate in model.scaled_rates:
            rate.zero_()
    assert torch.equal(model.fields(images).flat(), model.theta().flat().expand(4, -1))
    torch.testing.assert_close(model(images), model(images[:1]).expand(4, -1))


def test_every_learned_part_gets_a_gradient(model: MWT, images: Tensor, generator: Generator):
    model.train()
    fitted = model.fit(images, generator)
    loss = model.error(fitted, images, generator).mean()
    (loss + torch.nn.functional.cross_entropy(model.read(fitted), torch.arange(4))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_feedback_scales_the_gradient_on_start_and_steps_only(model: MWT, images: Tensor):
    def gradients(feedback: float) -> dict[str, Tensor]:
        model.config = replace(CONFIG, feedback=feedback)
        model.zero_grad()
        model(images).square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, part, none = gradients(1.0), gradients(0.01), gradients(0.0)
    for name, gradient in whole.items():
        share = 1.0 if name.startswith("reader.") else 0.01
        torch.testing.assert_close(part[name], share * gradient, rtol=1e-9, atol=1e-14)
        assert name.startswith("reader.") or not none[name].any()


def test_the_reader_sees_the_change_times_the_gain(model: MWT, images: Tensor):
    seen = []
    model.reader.embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    fitted = model.fit(images)
    model.read(fitted)
    theta, beta = model.theta(), model.reader.beta.view(2, 5, 6)
    tokens = seen[0].view(4, 2, 5, 6)
    for layer in (1, 2):
        change = fitted.weights[layer] - theta.weights[layer] + beta[layer - 1, :, :5]
        torch.testing.assert_close(tokens[:, layer - 1, :, :5], 500.0 * change)
        change = fitted.biases[layer] - theta.biases[layer] + beta[layer - 1, :, 5]
        torch.testing.assert_close(tokens[:, layer - 1, :, 5], 500.0 * change)


def test_pixels_are_drawn_in_training_only(model: MWT, images: Tensor, generator: Generator):
    assert torch.equal(model(images, generator), model(images))
    model.train()
    with pytest.raises(ValueError, match="generator=None"):
        model(images)
    first, second = model(images, generator), model(images, generator)
    assert not torch.equal(first, second)
    model.config = replace(CONFIG, points=30)
    assert torch.equal(model(images), model.eval()(images))


def test_fields_are_ordinary_ones_that_render(generator: Generator):
    model = MWTConfig(hidden=24, layers=2, steps=8, depth=1, width=8, head=8).build(1, 2, generator)
    images = torch.linspace(0.0, 1.0, 12).expand(2, 10, 12).unsqueeze(-1).contiguous()
    images[1] = 1.0 - images[1]
    fitted = model.fields(images)
    assert not fitted.flat().requires_grad
    shown = evaluate(fitted, image_coords(model.spec, (10, 12))).view(images.shape)
    torch.testing.assert_close(image(fitted, (10, 12)), shown.clamp(0.0, 1.0), atol=1e-5, rtol=0)
    start = evaluate(model.theta(), image_coords(model.spec, (10, 12))).view(1, 10, 12, 1)
    assert (shown - images).square().mean() < 0.5 * (start - images).square().mean()
    torch.testing.assert_close(model.error(fitted, images), (shown - images).square().mean(dim=(1, 2, 3)))


def test_settings_round_trip_and_are_checked(images: Tensor, model: MWT):
    assert MWTConfig.from_json(MWTConfig.small().to_json()) == MWTConfig.small()
    with pytest.raises(ValueError, match="unknown options"):
        MWTConfig.from_json({"heads": 4})
    with pytest.raises(ValueError, match=r"unknown options \['paper'\]; expected \['hidden', 'layers',"):
        MWTConfig.from_json({"paper": "another"})
    wrong = {"steps": 0, "gain": 0.0, "feedback": -1.0, "width": 100, "rate_high": 0.0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name}=.*: expected"):
            MWTConfig(**{name: value})
    with pytest.raises(ValueError, match=r"images has shape \(4, 5, 6, 1\): expected \(N, H, W, 3\)"):
        model(images[..., :1])
