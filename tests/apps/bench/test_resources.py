"""The page of what the Triton kernels take is complete, clean, and what a compilation says."""

import ast
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from apps.bench import resources as bench
from neuralfields.kernels.resources import ARCHS, Choice, Resources

USED = Resources(registers=168, stack=0, spill_stores=0, spill_loads=0, shared=40960, local=0)
CHOICE = Choice(label="resident 2-32-32-1, tf32", kernel="a:b", signature={}, constants={}, num_warps=4, num_stages=1)
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def entry_kernels(sources: list[str]) -> set[str]:
    """Names of the @triton.jit functions that no other one calls: those that are launched."""
    kernels = [  # a list: two files may each have a function of one name
        node
        for source in sources
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
    ]
    called = {
        call.func.id
        for node in kernels
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    return {node.name for node in kernels} - called


def test_launched_kernels_are_told_from_called_ones() -> None:
    source = "@triton.jit\ndef a(x): pass\n@triton.jit(do_not_specialize=[])\ndef b(x): a(x)\ndef c(): pass\n"
    assert entry_kernels([source]) == {"b"}
    twice = ["@triton.jit\ndef a(x): h(x)\n@triton.jit\ndef h(x): pass\n@triton.jit\ndef c(x): a(x)\n"]
    assert entry_kernels([*twice, "@triton.jit\ndef a(x): pass\n"]) == {"c"}


def section_of(kernel: str) -> str:
    return bench.sections_of(bench.PAGE.read_text(encoding="utf-8")).get(kernel, "")


@needs_triton
def test_every_launched_kernel_is_registered() -> None:
    sources = [p.read_text(encoding="utf-8") for folder in bench.FOLDERS for p in (bench.ROOT / folder).glob("*.py")]
    choices = [choice for kernel in bench.KERNELS for choice in bench.shipped(kernel)]
    assert {choice.kernel.split(":")[1] for choice in choices} == entry_kernels(sources)
    assert len({choice.label for choice in choices}) == len(choices)


@needs_triton
@pytest.mark.parametrize("kernel", bench.KERNELS)
def test_every_choice_has_a_clean_row_of_these_sources(kernel: str) -> None:
    text = section_of(kernel)
    assert bench.stale(kernel, bench.shipped(kernel), text) == []
    for (label, arch), row in bench.rows_of(text).items():
        values = dict(zip(bench.HEADER, row, strict=True))
        assert (values["stack"], values["spills"], values["local"]) == ("0", "0 / 0", "0"), f"{label}, sm_{arch}"
        assert int(values["shared"]) <= bench.SHARED_LIMIT[arch], f"{label}, sm_{arch}"


@needs_triton
@pytest.mark.parametrize("kernel", bench.KERNELS)
def test_the_page_is_what_a_compilation_says(kernel: str) -> None:
    # The first choice of every kernel, on another chip each: the same ones in every run.
    choice = bench.shipped(kernel)[0]
    found = bench.compiled([choice], [choice.archs[list(bench.KERNELS).index(kernel) % len(choice.archs)]])
    assert found
    assert bench.differences(section_of(kernel), found) == []


@needs_triton
def test_a_section_says_again_what_was_compiled() -> None:
    found = {(CHOICE.label, arch): (CHOICE, USED) for arch in ARCHS}
    text = bench.section("resident", [CHOICE], found)
    page = bench.page({"resident": text, "evaluate": text.replace("resident\n", "evaluate\n")})
    assert bench.sections_of(page)["resident"] == text
    assert list(bench.sections_of(page)) == ["resident", "evaluate"]
    assert list(bench.rows_of(text)) == [(CHOICE.label, arch) for arch in ARCHS]
    assert bench.differences(text, found) == []
    assert bench.differences(text.replace("| 168 |", "| 170 |"), found) != []
    assert bench.stale("resident", [CHOICE], text) == []
    other = replace(CHOICE, num_warps=8)
    assert "changed" in bench.stale("resident", [other], text)[0]
    renamed = bench.stale("resident", [replace(CHOICE, label="b")], text)
    assert "b, sm_80: not on the page" in renamed
    assert f"{CHOICE.label}, sm_80: on the page, but not shipped" in renamed


def test_the_fingerprint_changes_with_the_code_alone(tmp_path: Path) -> None:
    folder = tmp_path / "fitting" / "kernels"
    folder.mkdir(parents=True)
    kernel, helper = folder / "k.py", folder / "helper.py"
    kernel.write_text("from fitting.kernels.helper import f\n\n\ndef k(x):\n    return f(x)\n", encoding="utf-8")
    helper.write_text("def f(x):\n    return x + 1\n", encoding="utf-8")
    choice = replace(CHOICE, kernel="fitting.kernels.k:k")
    assert bench.sources([choice], tmp_path) == [helper, kernel]
    first = bench.fingerprint([choice], tmp_path)
    helper.write_text('def f(x):\n    """Text."""\n    return x + 1  # and more\n', encoding="utf-8")
    assert bench.fingerprint([choice], tmp_path) == first
    helper.write_text("def f(x):\n    return x + 2\n", encoding="utf-8")
    assert bench.fingerprint([choice], tmp_path) != first


def test_a_choice_is_compiled_from_what_its_kernel_imports() -> None:
    resident = replace(CHOICE, kernel="fitting.kernels.triton_resident:fit_resident")
    names = {path.name for path in bench.sources([resident])}
    assert {"triton_resident.py", "triton_dot.py", "triton_math.py", "sine.py", "interpreter.py"} <= names
    assert "resources.py" not in names


def test_what_may_not_be_shipped_is_said() -> None:
    assert bench.faults("a", 80, USED) == []
    assert "8 bytes of stack" in bench.faults("a", 80, Resources(255, 8, 0, 0, 0, 0))[0]
    assert "16 stored" in bench.faults("a", 80, Resources(255, 0, 16, 0, 0, 0))[0]
    assert "4 local" in bench.faults("a", 80, Resources(255, 0, 0, 0, 0, 4))[0]
    assert "at most 166912" in bench.faults("a", 80, Resources(255, 0, 0, 0, 200000, 0))[0]
    assert bench.faults("a", 90, Resources(255, 0, 0, 0, 200000, 0)) == []


def test_labels_and_kernels_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twice", SimpleNamespace(shipped=lambda: [CHOICE, CHOICE]))
    monkeypatch.setitem(bench.KERNELS, "twice", "twice")
    with pytest.raises(ValueError, match=f"labels {CHOICE.label} occur twice"):
        bench.shipped("twice")
    with pytest.raises(ValueError, match="kernel='other': expected one of halves, resident, streamed"):
        bench.shipped("other")
