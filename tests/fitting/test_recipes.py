"""Recipes are complete, named, and their checks can fail."""

import dataclasses

import pytest

from fitting import images, recipes
from fitting.recipes import Recipe


def test_every_recipe_names_its_source_and_builds_its_spec():
    grey, rgb = images.load("digits", limit=2), images.load("chelsea", resize=(8, 8))
    for name in recipes.names():
        recipe = recipes.get(name)
        assert recipe.source
        signals = rgb if name == "implicit-zoo-cifar10" else grey
        assert recipe.spec_for(signals).out_dim == signals.channels


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match="recipe='siren': expected one of siren-mnist"):
        recipes.get("siren")


def test_grey_images_are_refused_by_a_colour_recipe():
    with pytest.raises(ValueError, match="expected 3"):
        recipes.get("implicit-zoo-cifar10").spec_for(images.load("digits", limit=2))


def test_a_check_compares_every_published_tensor_and_can_fail(monkeypatch):
    signals = images.load("digits", limit=8)
    short = dataclasses.replace(recipes.get("dws-mnist").config, steps=3)
    recipe: Recipe = dataclasses.replace(recipes.get("dws-mnist"), config=short)
    monkeypatch.setattr(recipes, "get", lambda name: recipe)
    result = recipes.check("dws-mnist", signals)
    assert [row["tensor"] for row in result.rows] == list(recipe.published)
    assert not result.ok


def test_a_recipe_without_published_statistics_has_no_check():
    with pytest.raises(ValueError, match="no published statistics: expected one of dws-mnist, nfn-mnist"):
        recipes.check("siren-mnist", images.load("digits", limit=2))
