"""The rules of the house that a machine can hold: which room imports which, sizes, and what a bare import needs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("neuralfields", "fitting", "wsnets", "apps")
# What each room may import of the others: one way only.
ALLOWED = {"neuralfields": set(), "fitting": {"neuralfields"}, "wsnets": {"neuralfields"}, "apps": set(ROOMS)}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Imported only inside the functions that need them.
OPTIONAL = ("sklearn", "skimage", "scipy", "h5py", "matplotlib", "rich", "tyro", "trimesh", "open3d", "jax", "triton")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_rooms(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; rooms are named in full"
            names = [node.module or ""]
        yield from (name.split(".")[0] for name in names if name.split(".")[0] in ROOMS)


def long_functions(source: str) -> list[str]:
    functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    sizes = ((f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions)
    return [f"{name}: {lines} lines" for name, lines in sizes if lines > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    found = sources(room)
    assert found, f"{room} has no files"
    for path in found:
        others = set(imported_rooms(path.read_text(encoding="utf-8"))) - {room}
        assert others <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {sorted(others - ALLOWED[room])}"


def test_a_wrong_import_would_be_noticed() -> None:
    assert set(imported_rooms("def f():\n    from fitting.fit import fit\n    import wsnets.train as t")) == {
        "fitting",
        "wsnets",
    }


def test_files_and_functions_stay_small() -> None:
    native = [p for p in (ROOT / "fitting").rglob("*") if p.suffix in (".cpp", ".hpp", ".cu", ".cuh")]
    for path in [*sources(*ROOMS, "tests"), *native]:
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= MAX_FILE_LINES, f"{path.relative_to(ROOT)} has {lines} lines: at most {MAX_FILE_LINES}"
    for path in sources(*ROOMS, "tests"):
        found = long_functions(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)}: {found}, at most {MAX_FUNCTION_LINES}"


def test_a_long_function_would_be_noticed() -> None:
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert long_functions(f"def f():\n{body}") == [f"f: {MAX_FUNCTION_LINES + 1} lines"]


def unsafe_loads(source: str) -> list[str]:
    """Lines that could run code from a file: pickle, torch.load without weights_only=True, NumPy's allow_pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # the error that torch raises for a file it refuses may be named
            names = [node.module for alias in node.names if alias.name != "UnpicklingError"]
        unsafe = [name for name in names if name in ("pickle", "cloudpickle", "joblib", "marshal")]
        found += [f"line {getattr(node, 'lineno', 0)}: {name}" for name in unsafe]
        if isinstance(node, ast.Call):
            true = {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value is True}
            if ast.unparse(node.func) == "torch.load" and "weights_only" not in true:
                found.append(f"line {node.lineno}: torch.load without weights_only=True")
            if "allow_pickle" in true:
                found.append(f"line {node.lineno}: allow_pickle=True")
    return found


def test_no_file_can_run_code() -> None:
    for path in sources(*ROOMS):
        found = unsafe_loads(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_an_unsafe_load_would_be_noticed() -> None:
    source = "import pickle\ntorch.load(p)\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=True)"
    assert [line.split(":")[0] for line in unsafe_loads(source)] == ["line 1", "line 2", "line 4"]


def test_base_imports_need_no_optional_package() -> None:
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"  # None there makes an import of it fail
        "import neuralfields, fitting, wsnets\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
