"""The ahead-of-time resource check: it sees spills where there are some, none where there are none."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from neuralfields.kernels import compile_worker, resources
from neuralfields.kernels.resources import ARCHS, Choice, Resources

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

KERNELS = Path(__file__).with_name("tiny_kernels.py")
SIGNATURE = {"x": "*fp32", "y": "*fp32", "count": "i32"}
ROOT = Path(__file__).resolve().parents[3]


def choice(kernel: str, block: int, **overrides) -> Choice:
    settings = {"num_warps": 4, "num_stages": 1, **overrides}
    return Choice(
        label=kernel, kernel=f"{KERNELS}:{kernel}", signature=SIGNATURE, constants={"BLOCK": block}, **settings
    )


def test_spills_are_seen_on_every_chip(tmp_path: Path) -> None:
    work = [(one, arch) for arch in ARCHS for one in (choice("double", 128), choice("hoard", 4096, num_warps=1))]
    found = resources.compile_all(work, cache=tmp_path)
    for (asked, arch), used in zip(work, found, strict=True):
        if asked.label == "double":
            assert not used.spills
            assert 4 <= used.registers <= 40
        else:  # 256 values per thread, and a thread has 255 registers
            assert 16 <= used.registers <= 255
            assert used.spills
            assert used.stack > 0
            assert used.spill_stores > 0
            assert used.spill_loads > 0
        assert used.fits(arch)


def test_shared_memory_and_a_limit_of_registers(tmp_path: Path) -> None:
    big = Choice(
        label="product",
        kernel=f"{KERNELS}:product",
        signature={"x": "*fp32", "y": "*fp32", "z": "*fp32"},
        constants={"SIZE": 128},
        num_warps=8,
        num_stages=1,
    )
    limited = choice("hoard", 2048, num_warps=1, maxnreg=64)
    shared, free, few = resources.compile_all(
        [(big, 80), (choice("hoard", 2048, num_warps=1), 80), (limited, 80)], cache=tmp_path
    )
    assert shared.shared >= 128 * 128 * 4
    assert not free.spills
    assert free.registers > 64
    assert few.registers <= 64
    assert few.spills


def test_kept_results_are_those_of_a_compilation(tmp_path: Path) -> None:
    copy = tmp_path / "copied_kernels.py"
    copy.write_text(KERNELS.read_text(encoding="utf-8"), encoding="utf-8")
    asked = Choice(
        label="a", kernel=f"{copy}:double", signature=SIGNATURE, constants={"BLOCK": 64}, num_warps=1, num_stages=1
    )
    kept = tmp_path / "kept"
    first = resources.compile_all([(asked, 90)], cache=kept)[0]
    (file,) = kept.iterdir()
    file.write_text(file.read_text(encoding="utf-8").replace(f": {first.registers}", ": 77"), encoding="utf-8")
    assert resources.compile_all([(asked, 90)], cache=kept)[0].registers == 77
    copy.write_text(copy.read_text(encoding="utf-8").replace("* 2.0", "* 3.0"), encoding="utf-8")
    assert resources.compile_all([(asked, 90)], cache=kept)[0].registers < 77
    assert len(list(kept.iterdir())) == 2


def test_it_works_where_kernels_are_interpreted() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import tiny_kernels\n"
        "from neuralfields.kernels.resources import name_of, resources\n"
        "print(name_of(tiny_kernels.double), file=sys.stderr)\n"
        f"print(resources(tiny_kernels.double, {SIGNATURE!r}, dict(BLOCK=32), arch=90, num_warps=1, num_stages=1))\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", code, str(KERNELS.parent)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Resources(registers=")
    assert str(KERNELS) in done.stderr


def test_what_does_not_compile_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"refused does not compile for sm_90: .*BLOCK: expected 3") as caught:
        resources.compile_all([(choice("refused", 64), 90)], cache=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="nothing_here"):
        resources.compile_all([(choice("nothing_here", 64), 90)], cache=tmp_path)
    odd = replace(choice("double", 64), constants={"BLOCKS": 64})
    with pytest.raises(RuntimeError, match=r"missing \['BLOCK'\], unknown \['BLOCKS'\]"):
        resources.compile_all([(odd, 90)], cache=tmp_path)
    with pytest.raises(ValueError, match="arch=75: expected one of 80"):
        resources.compile_all([(choice("double", 64), 75)], cache=tmp_path)


def test_what_ptxas_reports_is_read() -> None:
    log = (
        "ptxas info    : 0 bytes gmem\n"
        "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n"
        "    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads\n"
        "ptxas info    : Used 96 registers, used 1 barriers, 8 bytes cumulative stack size\n"
        "    0 bytes stack frame, 20 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Used 40 registers\n"
    )
    expected = {"registers": 96, "stack": 8, "spill_stores": 20, "spill_loads": 24, "local": 0}
    assert compile_worker.report(log, 0) == expected
    with pytest.raises(ValueError, match="no report"):
        compile_worker.report("", 0)


def test_blocks_per_multiprocessor() -> None:
    def used(registers: int, shared: int) -> Resources:
        return Resources(registers, 0, 0, 0, shared, 0)

    assert used(255, 0).blocks(90, 4) == 2  # 65536 / (256 * 128)
    assert used(144, 0).blocks(90, 1) == used(168, 0).blocks(90, 1) == 12  # three warps in each quarter, 16384 / 4608
    assert used(96, 0).blocks(90, 2) == 10  # five
    assert used(32, 0).blocks(90, 4) == 16  # 64 warps
    assert used(32, 112 * 1024).blocks(90, 4) == 2  # 228 KiB, 1 KiB each for the driver
    assert used(32, 232448).blocks(90, 4) == 1
    assert not used(32, 232449).fits(90)
    assert used(32, 166912).fits(80)
    assert not used(32, 166913).fits(80)
