"""What a Triton kernel takes of the chip, without a chip: compiled ahead of time, read from the assembler's report.

Registers, stack and spills are what ptxas says, local memory what cuobjdump finds in the result, shared memory what
Triton asks of the driver. Compilation runs in processes of its own (compile_worker.py), so that it works from a process
in which TRITON_INTERPRET is set, and its results are kept by the hash of the kernel's source in a temporary folder.

A module of kernels, or of their tiles, says what it ships by a function `shipped() -> list[Choice]`: one choice for
every entry of its tables. apps/bench/resources.py finds these and writes docs/triton-resources.md.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ARCHS = (80, 90, 100)
# Bytes of shared memory that one block may ask for, and registers of one multiprocessor, by compute capability.
SHARED_LIMIT = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 103: 232448, 120: 101376}
_REGISTERS = 65536
_QUARTERS = 4
_SHARED_RESERVED = 1024  # of every block, by the driver
_WARPS = {80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 103: 64, 120: 48}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way a kernel is shipped: all that its compilation depends on, apart from the chip.

    label: for people, one per choice; kernel: "package.module:function", or "path/of/file.py:function"; signature:
    argument -> type, such as "*fp32", "i32" or "fp32", without the compile-time arguments; constants: compile-time
    arguments, plain values and tuples of them; num_warps, num_stages, maxnreg: of the launch; aligned: arguments that
    are multiples of 16 (None: every pointer, as torch allocates them).
    """

    label: str
    kernel: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    maxnreg: int | None = None
    aligned: tuple[str, ...] | None = None
    archs: tuple[int, ...] = ARCHS


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes.

    registers: of a thread; stack, spill_stores, spill_loads, local: bytes of a thread; shared: bytes of a block.
    """

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    local: int

    @property
    def spills(self) -> bool:
        """Whether anything of a thread lives outside its registers."""
        return any((self.stack, self.spill_stores, self.spill_loads, self.local))

    def fits(self, arch: int) -> bool:
        """Whether a block gets its shared memory on that chip. Raises ValueError for an unknown chip."""
        return self.shared <= SHARED_LIMIT[_known(arch)]

    def blocks(self, arch: int, num_warps: int) -> int:
        """How many blocks of so many warps one multiprocessor holds at once, by registers, warps and shared memory."""
        # Each quarter has its own registers, and gives them to whole warps.
        of_warp = math.ceil(max(self.registers, 1) / 8) * 8 * 32
        by_registers = _REGISTERS // _QUARTERS // of_warp * _QUARTERS // num_warps
        whole = SHARED_LIMIT[_known(arch)] + _SHARED_RESERVED
        return min(by_registers, _WARPS[arch] // num_warps, 32, whole // (self.shared + _SHARED_RESERVED))


def resources(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    arch: int,
    num_warps: int,
    num_stages: int,
    maxnreg: int | None = None,
) -> Resources:
    """Compile one kernel ahead of time for one chip and say what it takes.

    kernel: a @triton.jit function (interpreted ones too) or its name as in Choice; arch: compute capability, 90 for
    9.0; the others as in Choice. Raises ValueError for an unknown chip, RuntimeError when it does not compile.
    """
    choice = Choice(
        label="kernel",
        kernel=kernel if isinstance(kernel, str) else name_of(kernel),
        signature=signature,
        constants=constants,
        num_warps=num_warps,
        num_stages=num_stages,
        maxnreg=maxnreg,
    )
    return compile_all([(choice, arch)])[0]


def compile_all(
    work: Sequence[tuple[Choice, int]],
    *,
    processes: int = 1,
    cache: Path | None = None,
    on_done: Callable[[Choice, int, Resources], None] | None = None,
) -> list[Resources]:
    """Compile (choice, chip) pairs, with results in their order.

    processes: compilers at work at once; cache: folder of results (None: one under the system's temporary folder);
    on_done: called with each result as it comes. Raises ValueError for an unknown chip, RuntimeError naming the choice
    that does not compile.
    """
    folder = cache or Path(tempfile.gettempdir()) / f"neuralfields-resources-{os.getuid()}"
    requests = [json.dumps({**asked(choice), "arch": _known(arch), "cache": str(folder)}) for choice, arch in work]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(processes) as pool:
        workers = [_Worker(scratch) for _ in range(min(processes, len(requests)))]
        idle = list(workers)

        def compile_one(place: int) -> Resources:
            (choice, arch), worker = work[place], idle.pop()
            answer = worker.ask(requests[place])
            idle.append(worker)
            if "error" in answer:
                raise RuntimeError(f"{choice.label} does not compile for sm_{arch}: {answer['error']}")
            found = Resources(**answer)
            if on_done is not None:
                on_done(choice, arch, found)
            return found

        try:
            return list(pool.map(compile_one, range(len(work))))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.close()


def asked(choice: Choice) -> dict[str, Any]:
    """All that a compilation depends on, apart from the chip."""
    return {name: value for name, value in asdict(choice).items() if name != "archs"}


def name_of(kernel: Callable | Any) -> str:
    """The name of a @triton.jit function, compiled or interpreted, by which another process finds it."""
    function = getattr(kernel, "fn", kernel)
    module = sys.modules.get(function.__module__)
    known = module is not None and function.__module__ != "__main__" and getattr(module, "__file__", None)
    path = function.__code__.co_filename
    return f"{function.__module__ if known and '.' in function.__module__ else path}:{function.__name__}"


class _Worker:
    """One process that compiles what it is asked to, one request after another."""

    def __init__(self, scratch: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "TRITON_KERNEL_OVERRIDE")}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        environment |= {"TRITON_CACHE_DIR": scratch, "TRITON_ALWAYS_COMPILE": "1", "TRITON_DUMP_PTXAS_LOG": "1"}
        # A failing pass prints the whole program: a file keeps it from the terminal, and from blocking a pipe.
        with tempfile.NamedTemporaryFile("w", dir=scratch, delete=False) as said:
            self._said = Path(said.name)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "neuralfields.kernels.compile_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=environment,
                text=True,
            )

    def ask(self, request: str) -> dict:
        """Send one request and wait for its answer; the end of the process is one too."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        before = self._said.stat().st_size
        line = ""
        with contextlib.suppress(BrokenPipeError):
            stdin.write(request + "\n")
            stdin.flush()
            line = stdout.readline()
        answer = json.loads(line) if line else {"error": f"the compiler ended with status {self._process.wait()}"}
        if "error" in answer:
            said = self._said.read_bytes()[before:].decode(errors="replace")
            first = next((text for text in said.splitlines() if "error" in text.lower()), "")
            answer["error"] = f"{answer['error']}{'; ' if first else ''}{first.strip()[:300]}"
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _known(arch: int) -> int:
    if arch not in SHARED_LIMIT:
        raise ValueError(f"arch={arch}: expected one of {', '.join(map(str, SHARED_LIMIT))}")
    return arch
