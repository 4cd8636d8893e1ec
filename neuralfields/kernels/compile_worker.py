"""The compiling process of resources.py: one request as a line of JSON in, what the kernel takes as a line of JSON out.

Started as `python -m neuralfields.kernels.compile_worker`; TRITON_INTERPRET must not be set in it.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

_FRAME = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<spill_stores>\d+) bytes spill stores, "
    r"(?P<spill_loads>\d+) bytes spill loads"
)
_REGISTERS = re.compile(r"Used (\d+) registers")
_LOCAL = re.compile(r"LOCAL:(\d+)")


def main(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        try:
            answer = answer_to(json.loads(line))
        except Exception as error:  # whatever a compiler raises is the answer to this request only
            answer = {"error": _one_line(error)}
        print(json.dumps(answer), file=answers, flush=True)


def answer_to(request: dict) -> dict:
    """Compile what a request asks for, or read it where it was kept."""
    import triton

    kernel = load(request["kernel"])
    asked = {name: value for name, value in request.items() if name not in ("label", "cache")}
    key = json.dumps([triton.__version__, kernel.cache_key, asked], sort_keys=True)
    kept = Path(request["cache"]) / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    answer = compile_one(kernel, asked)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8") as file:
        json.dump(answer, file)
    Path(file.name).replace(kept)
    return answer


def compile_one(kernel: Any, asked: dict) -> dict:
    """Compile for the chip that is asked for and read the reports. Raises whatever Triton raises."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {name: _tuples(value) for name, value in asked["constants"].items()}
    given = {**asked["signature"], **dict.fromkeys(constants, "constexpr")}
    missing, unknown = sorted(set(kernel.arg_names) - set(given)), sorted(set(given) - set(kernel.arg_names))
    if missing or unknown:
        raise ValueError(f"signature and constants: missing {missing}, unknown {unknown}")
    signature = {name: given[name] for name in kernel.arg_names}
    aligned = asked["aligned"]
    if aligned is None:
        aligned = [name for name, kind in signature.items() if kind.startswith("*")]
    attributes: Any = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    options = {"num_warps": asked["num_warps"], "num_stages": asked["num_stages"], "maxnreg": asked["maxnreg"]}
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        compiled = triton.compile(
            ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes),
            target=GPUTarget("cuda", asked["arch"], 32),
            options={name: value for name, value in options.items() if value is not None},
        )
    return {
        **report(log.getvalue(), local_bytes(compiled.asm["cubin"])),
        "shared": compiled.metadata.shared,
    }


def report(log: str, local: int) -> dict:
    """Read the report that `ptxas -v` writes; the largest of the kernel and of the functions it calls."""
    frames, registers = list(_FRAME.finditer(log)), _REGISTERS.findall(log)
    if not frames or not registers:
        raise ValueError(f"no report of registers in what ptxas says: {log.strip()[:200]!r}")
    largest = {name: max(int(frame[name]) for frame in frames) for name in ("stack", "spill_stores", "spill_loads")}
    return {"registers": max(map(int, registers)), **largest, "local": local}


def local_bytes(cubin: bytes) -> int:
    """Bytes of local memory per thread that a compiled kernel asks for, by cuobjdump."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return max(map(int, _LOCAL.findall(usage)))


def load(name: str) -> Any:
    """Import the @triton.jit function that a name such as "package.module:function" means."""
    place, function = name.rsplit(":", 1)
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ValueError(f"kernel={name!r}: expected a Python file before the colon")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    return getattr(module, function)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' | '.join(lines)[:600]}"


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what compilers print, from Python or not, is no answer
        main(sys.stdin, answers)
