"""The page to share: opened from a file, without a server, it filters, sorts and enlarges."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from apps.viewer.collection import Collection, Query, of_store
from apps.viewer.share import selection, share
from apps.viewer.share_page import embedded, share_page
from neuralfields import FieldStore
from neuralfields.store import save

EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def collection(digits: FieldStore, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Nine digits of three classes, of which one has a name that is markup; one field has no PSNR."""
    psnr = np.array([30, 20, np.nan, 25, 40, 35, 22, 28, 33], np.float32)
    rows = {"label": np.arange(9) % 3, "psnr": psnr, "name": [f"<b>{n}</b>" for n in range(9)]}
    meta = {"signal": {**digits.meta["signal"], "classes": ["zero", EVIL, "<!--two"]}, "recipe": "<i>recipe"}
    store = save(tmp_path_factory.mktemp("named") / "store", digits[:9], rows, meta)
    return Collection([of_store(store)])


def written(collection: Collection, chosen: np.ndarray, query: Query, path: Path) -> Path:
    """The page in a file."""
    pieces = share(collection, chosen, query, "a <title>", lambda text: None)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            path.write_text(end.value, encoding="utf-8")
            return path


def test_the_page_needs_nothing_else(collection, tmp_path):
    text = written(collection, np.arange(9), Query(), tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|<link", text)
    assert "default-src 'none'" in text
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    fields = json.loads(block)["fields"]
    assert len(fields) == 9
    assert all(field[name].startswith("data:image/jpeg;base64,") for field in fields for name in ("small", "large"))


def test_it_filters_sorts_and_enlarges_in_a_browser(collection, chromium, tmp_path):
    path = written(collection, np.arange(9), Query(), tmp_path / "page.html")
    context = chromium.new_context(viewport={"width": 1000, "height": 700})
    page, errors, asked = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url.split(":")[0]))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(path.as_uri())
    tiles = page.locator("#grid button")
    assert tiles.count() == 9
    assert page.title() == "a <title>"
    assert page.locator("#grid img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 112
    page.get_by_label("Class").select_option(label=f"{EVIL} (3)")
    assert tiles.count() == 3
    page.get_by_label("Class").select_option(value="")
    page.get_by_label("Sort by").select_option(label="PSNR in dB")
    page.get_by_role("button", name="Smallest first").click()
    order = [int(text.split(" ")[0][1:]) for text in tiles.all_inner_texts()]
    assert order == [4, 5, 8, 0, 7, 3, 6, 1, 2]  # without a figure: last
    tiles.first.click()
    shown = page.locator("#large img")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 400
    assert page.locator("#large").inner_text().count("<b>4</b>") == 1
    page.keyboard.press("ArrowRight")
    assert "<b>5</b>" in page.locator("#large").inner_text()
    page.get_by_role("button", name="Close").click()
    assert not shown.is_visible()
    context.close()
    assert not errors
    assert asked.count("file") == 1
    assert set(asked) <= {"file", "data"}


def test_nothing_in_the_data_ends_the_script():
    text = embedded({"a": "</script><!--<script>&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--<script>&\u2028"}
    page = share_page(EVIL, [EVIL], {"name": EVIL})
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page


def test_large_selections_are_thinned_evenly(collection, monkeypatch, tmp_path):
    monkeypatch.setattr("apps.viewer.share.MOST_SHOWN", 3)
    text = written(collection, np.arange(9)[::-1], Query(), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "All 9 fields. 3 of them are shown, spread evenly." in text
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert [field["name"].split(" ")[0] for field in json.loads(block)["fields"]] == ["#8", "#4", "#0"]


def test_the_selection_is_said(collection):
    query = Query(label=0, by="psnr", low=20, high=40, sort="psnr", descending=True)
    words = selection(collection, collection.choose(query), query)
    assert (
        words == "3 of 9 fields, of class zero and with PSNR in dB from 20 to 40; sorted by PSNR in dB, largest first."
    )
    assert selection(collection, np.arange(9), Query()) == "All 9 fields."
    with pytest.raises(ValueError, match="no field is in view"):
        next(share(collection, np.array([], int), Query(), "", lambda text: None))
