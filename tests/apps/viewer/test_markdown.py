"""Names from stores, files and folders in the panel: shown as they are, never obeyed."""

import html
import shlex
from dataclasses import replace

import numpy as np
import pytest

from apps.viewer.field_pane import facts, recipe
from apps.viewer.markdown import plain, shell
from apps.viewer.prediction_folder import class_title, score, value_title
from apps.viewer.predictions import Found
from apps.viewer.shape_pane import told
from neuralfields import SIREN, FieldStore, inits
from neuralfields.render.mesh import Mesh
from neuralfields.store import open_store
from neuralfields.store_writer import StoreWriter

BENIGN = ("round/1.ply", "digit_7", "a - b (mlp)", "5.1 %", "Türen & Fenster", "skimage:camera")
HOSTILE = (
    "<script>alert(1)</script>",
    "a | b",
    "`<b>` **c** _d_",
    "![x](/dev/zero) [y](z) \\| ~~k~~ # {e}",
    "one\n\n<img src=x onerror=alert(2)>\n# two",
    "    indented",
    "&lt;b&gt;",
)


def tokens(markdown: str) -> list:
    """What a reader of markdown that leaves HTML as it is finds, one after another."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    found = parser.parse(markdown)
    return [inner for token in found for inner in (token, *(token.children or ()))]


def kinds(markdown: str) -> set[str]:
    return {token.type for token in tokens(markdown)}


def shown(markdown: str) -> str:
    """The text that is shown."""
    return "".join(token.content for token in tokens(markdown) if token.type in ("text", "text_special"))


@pytest.mark.parametrize("text", [*BENIGN, *HOSTILE])
def test_any_text_is_shown_as_it_is_on_one_line(text):
    words = " ".join(text.split())
    assert shown(plain(text)) == words
    assert kinds(plain(text)) <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    assert html.unescape(plain(text)) == words


@pytest.mark.parametrize("name", ["`", "a\n```\n<b>", "~~~", "![a](/dev/zero)", "it's ![b](c)"])
def test_no_name_ends_the_block_of_a_command(name):
    block = shell(shlex.join(["nf", "fit", "images", name]))
    (fence,) = tokens(block)
    assert fence.type == "fence"
    assert shlex.split(fence.content) == ["nf", "fit", "images", name]
    assert "![" not in block


@pytest.mark.parametrize("name", HOSTILE)
def test_the_facts_of_a_field_stay_a_table_of_two_columns(digits_part, name):
    columns = {"label": np.zeros(1, int), name: np.ones(1), "name": np.array([name], object)}
    table = facts(replace(digits_part, columns=columns), 0, name)
    assert "<" not in table
    assert shown(table).count(" ".join(name.split())) >= 2  # of the class and in the column, nothing is cut
    types = [token.type for token in tokens(table)]
    assert types.count("tr_open") == 4
    assert types.count("td_open") == 6
    assert types[0] == "table_open"
    assert types[-1] == "table_close"
    assert not {"html_inline", "html_block", "link_open", "image", "em_open"} & set(types)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_said_of_a_fit_holds_no_html_of_the_store(digits_part, name):
    meta = {"config": {"init": name, "optimizer": name}, "signal": {"source": name}}
    said = recipe(replace(digits_part, meta=meta))
    assert "<" not in said
    assert shown(said).endswith(f"Source: {' '.join(name.split())}")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_networks_say_holds_no_html_of_their_names(name):
    said = np.array([0.2, 0.8])
    texts = [
        class_title(name, said, ("0", name), 1),
        value_title(name, 1.0, name, 2.0),
        score(name, Found(), {}),
        told([(name, None)], [Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))], 0.0, 8),  # type: ignore[list-item]
    ]
    for text in texts:
        assert "<" not in text
        assert " ".join(name.split()) in shown(text)
    assert [token.type for token in tokens(texts[1])].count("td_open") == 6


@pytest.fixture
def named(tmp_path) -> FieldStore:
    """A store in a folder whose name is HTML that runs, and markdown."""
    folder = tmp_path / "<img src=x onerror=document.title='run'> *a*|_b_"
    spec = SIREN(2, 1, hidden=(4,))
    with StoreWriter(folder, spec, {}, 1, 1) as writer:
        writer.write(0, inits.initial(spec, np.arange(1, dtype=np.uint32), "random", 0), {})
        writer.finish({})
    return open_store(folder)


def test_the_name_of_the_folder_is_shown_as_it_is(serve, named):
    headline = serve(named).headline()
    assert "<" not in headline
    assert shown(headline).startswith(named.path.name)


def test_a_browser_shows_a_name_and_runs_nothing_of_it(serve, look, named):
    page = look(serve(named)).page
    page.get_by_text(named.path.name).wait_for()
    assert page.title() != "run"
