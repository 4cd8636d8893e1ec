"""nf recipes: every one is listed, shown whole, and checked where there is something to check against."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fitting import recipes


def test_all_recipes_are_listed(nf) -> None:
    done = nf("recipes", "--json")
    assert done.code == 0
    assert [row["name"] for row in done.figures["recipes"]] == recipes.names()
    assert all(name in done.out for name in recipes.names())


@pytest.mark.parametrize("name", recipes.names())
def test_show_has_every_setting(name: str, nf) -> None:
    done = nf("recipes", "show", name, "--json")
    recipe = recipes.get(name)
    assert done.code == 0
    assert done.figures["config"] == recipe.config.to_json()
    assert done.figures["published"] == dict(recipe.published)
    assert all(setting in done.out for setting, value in recipe.config.to_json().items() if value is not None)


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_check_prints_the_ratios(ok: bool, code: int, nf, images_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"tensor": "weights.0", "published": 0.5, "measured": 0.25, "ratio": 0.5}]
    asked = {}

    def check(name: str, signals, limit: int, progress) -> SimpleNamespace:
        asked.update(name=name, count=len(signals), limit=limit)
        return SimpleNamespace(rows=rows, ok=ok, note="a note", psnr_mean=30.0, fields=len(signals))

    monkeypatch.setattr(recipes, "check", check)
    done = nf("recipes", "check", "dws-mnist", images_file, "--split", "train", "--limit", 7, "--json")
    assert done.code == code
    assert asked == {"name": "dws-mnist", "count": 7, "limit": 7}
    assert done.figures["rows"] == rows
    assert done.figures["ok"] is ok
    assert "0.500" in done.out
    assert "a note" in done.out


def test_bad_requests_are_one_line(nf, images_file: Path) -> None:
    nf("recipes", "show", "no-such").assert_refused("no-such", "siren-mnist")
    nf("recipes", "check", "no-such", images_file).assert_refused("no-such")
    nf("recipes", "check", "siren-mnist", images_file).assert_refused("published")
    nf("recipes", "check", "dws-mnist", "absent.npz").assert_refused("absent.npz")
    nf("recipes", "check", "dws-mnist", images_file, "--limit", 0).assert_refused("limit=0")
