"""`python -m apps.bench.resources`: compile every shipped tile choice for every chip, and write what each takes.

The page docs/triton-resources.md has one section per kernel of KERNELS, with a fingerprint of what was compiled; with
--check nothing is written, and what differs from the page is said.
"""

import argparse
import ast
import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from neuralfields.kernels.resources import ARCHS, SHARED_LIMIT, Choice, Resources, asked, compile_all

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "triton-resources.md"
# Kernel -> the module whose `shipped()` lists its choices; a new kernel is one line here.
KERNELS = {
    "halves": "fitting.kernels.halves_tiles",
    "resident": "fitting.kernels.triton_tiles",
    "streamed": "fitting.kernels.triton_streamed",
    "evaluate": "neuralfields.kernels.evaluate_tiles",
}
FOLDERS = ("fitting/kernels", "neuralfields/kernels")
_TOOLS = ("neuralfields.kernels.resources", "neuralfields.kernels.compile_worker")  # they compile, and are not compiled
Key = tuple[str, int]  # label of a choice, chip
Found = Mapping[Key, tuple[Choice, Resources]]

_PREFACE = """# What the Triton kernels take of a chip

Written by `python -m apps.bench.resources`; no GPU is needed. A test compiles a part of it anew, and holds the
fingerprint of every section against the sources of its kernel and the choices that are shipped.

Per thread: registers (at most 255) and bytes of stack, of spill stores and loads, and of local memory, all zero in
what is shipped. Shared: bytes per block; one block may ask for {limits}.
Blocks: how many one multiprocessor holds at once.
"""
_SECTION = """
## {kernel}

With triton {version}, fingerprint {fingerprint}.

"""
HEADER = ("choice", "chip", "warps", "stages", "registers", "stack", "spills", "local", "shared", "blocks")


def shipped(kernel: str) -> list[Choice]:
    """All choices of one of KERNELS. Raises ValueError for another name, and when two have one label."""
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}: expected one of {', '.join(KERNELS)}")
    choices = importlib.import_module(KERNELS[kernel]).shipped()
    labels = [choice.label for choice in choices]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"shipped choices: labels {', '.join(twice)} occur twice, expected each once")
    return choices


def fingerprint(choices: Sequence[Choice], root: Path = ROOT) -> str:
    """16 hex digits that change with the choices and with the code they are compiled from, not with its comments."""
    text = [json.dumps([asked(choice) for choice in choices], sort_keys=True)]
    text += [ast.unparse(_bare(path)) for path in sources(choices, root)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def sources(choices: Sequence[Choice], root: Path = ROOT) -> list[Path]:
    """The files that choices are compiled from: their kernels' modules, and what these import of FOLDERS."""
    prefixes = tuple(folder.replace("/", ".") for folder in FOLDERS)
    found, left = set[str](), sorted({choice.kernel.split(":")[0] for choice in choices})
    while left:
        name = left.pop()
        path = root.joinpath(*name.split(".")).with_suffix(".py")
        if name in found or name in _TOOLS or not name.startswith(prefixes) or not path.exists():
            continue
        found.add(name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                left += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
    return [root.joinpath(*name.split(".")).with_suffix(".py") for name in sorted(found)]


def _bare(path: Path) -> ast.Module:
    """A file without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def compiled(
    choices: Sequence[Choice], archs: Sequence[int], processes: int = 1, say: Callable[[str], None] | None = None
) -> Found:
    """Compile choices for chips. say: called with one line per result."""
    work = [(choice, arch) for choice in choices for arch in archs if arch in choice.archs]

    def on_done(choice: Choice, arch: int, used: Resources) -> None:
        if say is not None:
            trouble = faults(choice.label, arch, used)
            say("; ".join(trouble) or f"{choice.label}, sm_{arch}: {used.registers} registers, {used.shared} bytes")

    used = compile_all(work, processes=processes, on_done=on_done)
    return {(choice.label, arch): (choice, one) for (choice, arch), one in zip(work, used, strict=True)}


def faults(label: str, arch: int, used: Resources) -> list[str]:
    """Why a choice may not be shipped for a chip, one line each."""
    where = f"{label}, sm_{arch}"
    found = []
    if used.spills:
        found.append(
            f"{where}: {used.stack} bytes of stack, {used.local} local, spills of {used.spill_stores} stored and "
            f"{used.spill_loads} loaded, expected none ({used.registers} registers)"
        )
    if not used.fits(arch):
        found.append(f"{where}: {used.shared} bytes of shared memory, expected at most {SHARED_LIMIT[arch]}")
    return found


def cells(choice: Choice, arch: int, used: Resources) -> tuple[str, ...]:
    """One row as text, in the order of HEADER."""
    return (
        choice.label,
        f"sm_{arch}",
        str(choice.num_warps),
        str(choice.num_stages),
        str(used.registers),
        str(used.stack),
        f"{used.spill_stores} / {used.spill_loads}",
        str(used.local),
        str(used.shared),
        str(used.blocks(arch, choice.num_warps)),
    )


def section(kernel: str, choices: Sequence[Choice], found: Found) -> str:
    """The part of the page that one kernel has."""
    rows = [cells(choice, arch, used) for (_, arch), (choice, used) in found.items()]
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|" + "--:|" * (len(HEADER) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    head = _SECTION.format(kernel=kernel, version=metadata.version("triton"), fingerprint=fingerprint(choices))
    return head + "\n".join(lines) + "\n"


def page(sections: Mapping[str, str]) -> str:
    """The page for people, from the sections of kernels."""
    limits = ", ".join(f"{SHARED_LIMIT[arch]} on sm_{arch}" for arch in ARCHS)
    return _PREFACE.format(limits=limits) + "".join(sections[kernel] for kernel in KERNELS if kernel in sections)


def sections_of(text: str) -> dict[str, str]:
    """Read the sections of a page back: kernel -> text."""
    parts = text.split("\n## ")[1:]
    return {part.splitlines()[0]: "\n## " + part.removesuffix("\n") + "\n" for part in parts}


def rows_of(text: str) -> dict[Key, tuple[str, ...]]:
    """Read the rows of a section back: (label, chip) -> cells."""
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:2] == "| "
    ]
    return {(row[0], int(row[1].removeprefix("sm_"))): row for row in rows if row != HEADER}


def stale(kernel: str, choices: Sequence[Choice], text: str) -> list[str]:
    """What the section of a kernel lacks or has too much, or that it is of other sources, one line each."""
    rows, wanted = set(rows_of(text)), {(choice.label, arch) for choice in choices for arch in choice.archs}
    trouble = [f"{label}, sm_{arch}: not on the page" for label, arch in sorted(wanted - rows)]
    trouble += [f"{label}, sm_{arch}: on the page, but not shipped" for label, arch in sorted(rows - wanted)]
    if f"fingerprint {fingerprint(choices)}." not in text:
        trouble.append(
            f"{kernel}: the kernel or its choices changed since the page was written: expected it written again"
        )
    return trouble


def differences(text: str, found: Found) -> list[str]:
    """What a section says otherwise than a compilation did, one line each; empty when they agree.

    Numbers are compared only where the page was written with the triton that is here: another has other registers.
    """
    rows, trouble = rows_of(text), []
    same = f"With triton {metadata.version('triton')}," in text
    for (label, arch), (choice, used) in found.items():
        row = rows.get((label, arch))
        if row is None:
            trouble.append(f"{label}, sm_{arch}: not on the page")
        elif same and row != cells(choice, arch, used):
            trouble.append(
                f"{label}, sm_{arch}: the page says {row[2:]}, a compilation {cells(choice, arch, used)[2:]}"
            )
    return trouble


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, then write or check; 1 when something spills, does not fit or differs."""
    parser = argparse.ArgumentParser(prog="python -m apps.bench.resources", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs from the page")
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, default=list(KERNELS), help="whose sections")
    parser.add_argument("--processes", type=int, default=1, help="compilers at work at once")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    sections = sections_of(options.page.read_text(encoding="utf-8")) if options.page.exists() else {}
    trouble: list[str] = []
    for kernel in options.kernel:
        choices = shipped(kernel)
        found = compiled(choices, ARCHS, options.processes, lambda line: print(line, file=sys.stderr, flush=True))
        trouble += [line for (label, arch), (_, used) in found.items() for line in faults(label, arch, used)]
        if options.check:
            old = sections.get(kernel, "")
            trouble += [*stale(kernel, choices, old), *differences(old, found)]
        else:
            sections[kernel] = section(kernel, choices, found)
            options.page.parent.mkdir(parents=True, exist_ok=True)
            options.page.write_text(page(sections), encoding="utf-8")
    print("\n".join(trouble) or f"{', '.join(options.kernel)}: no spills, all fit")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
