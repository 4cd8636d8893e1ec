"""nf: find the command, parse its options, run it, turn errors into one line and an exit code.

Exit codes: 0 done; 1 a bug, or a check that did not pass; 2 bad input; 130 interrupted. Help must stay fast: this
module and the modules of the commands import neither torch nor anything else that is slow; commands do so as they run.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from apps.output import Output

INTERRUPTED = 130
BAD_INPUT = 2
READER_GONE = 141  # what a shell reports for a program whose output nobody reads any more

# What a person can cause, besides ValueError: a path, a full disk.
BAD_INPUT_ERRORS = (ValueError, OSError)
NO_MEMORY = "can't allocate memory"  # in what torch raises, a RuntimeError


class Command(NamedTuple):
    """Where a command lives: module, its options (a dataclass) and function, and one line for the list."""

    module: str
    options: str
    function: str
    usage: str
    summary: str


COMMANDS = {
    "demo": Command("apps.demo", "Demo", "demo", "", "fit 1,797 digits, read them from their weights, make a report"),
    "fit images": Command("apps.fit", "FitImages", "fit_images", "SOURCE --out DIR", "fit one field to every image"),
    "fit shapes": Command(
        "apps.fit_shapes", "FitShapes", "fit_shapes", "SOURCE --out DIR", "fit one field to every mesh or point cloud"
    ),
    "fit views": Command(
        "apps.fit_views", "FitViews", "fit_views", "SOURCE --out DIR", "fit one radiance field to every posed scene"
    ),
    "info": Command("apps.info", "Info", "info", "[FOLDER]", "describe a store, a network, or this installation"),
    "render": Command("apps.render", "Render", "render", "STORE --out FILE", "draw fields at any size"),
    "view": Command("apps.view", "View", "view", "STORE", "look at a population in the browser"),
    "mesh": Command(
        "apps.mesh", "MeshFields", "mesh", "STORE --out DIR", "write the surfaces of shape fields as meshes"
    ),
    "train classify": Command(
        "apps.classify", "TrainClassify", "train_classify", "STORE --out DIR", "train a network that reads weights"
    ),
    "train regress": Command(
        "apps.regress", "TrainRegress", "train_regress", "STORE --out DIR", "train a network that reads a number"
    ),
    "train edit": Command(
        "apps.edit", "TrainEdit", "train_edit", "STORE --out DIR", "train a network that changes what fields show"
    ),
    "train contrast": Command(
        "apps.contrast", "TrainContrast", "train_contrast", "STORE --out DIR", "train an embedding without labels"
    ),
    "train meta": Command(
        "apps.meta", "TrainMeta", "train_meta", "SOURCE --out DIR", "train how fields are fitted, with their reader"
    ),
    "train embed": Command(
        "apps.embed", "TrainEmbed", "train_embed", "STORE --out DIR", "train latents that fields can be decoded from"
    ),
    "train generate": Command(
        "apps.generate", "TrainGenerate", "train_generate", "STORE --out DIR", "train a network that makes new fields"
    ),
    "train align": Command(
        "apps.train_align", "TrainAlign", "train_align", "STORE --out DIR", "train a network that aligns fields"
    ),
    "generate": Command("apps.generate", "Generate", "generate", "GENERATOR --out DIR", "write a store of new fields"),
    "measure": Command(
        "apps.measure", "Measure", "measure", "GENERATED --train STORE --test STORE", "judge generated fields honestly"
    ),
    "interpolate": Command(
        "apps.interpolate", "Interpolate", "interpolate", "STORE --fields A B --out FILE", "draw a path of fields"
    ),
    "align": Command("apps.align", "Align", "align", "STORE --out DIR", "write fields brought next to a reference"),
    "merge": Command("apps.merge", "Merge", "merge", "STORE [STORE ...] --out DIR", "average the fits of each item"),
    "predict": Command("apps.predict", "Predict", "predict", "READER STORE", "read fields by their weights"),
    "edit": Command("apps.edit", "Edit", "edit_store", "EDITOR STORE --out DIR", "write a store of edited fields"),
    "models": Command("apps.models", "Models", "list_models", "[NAME]", "list the networks that read and edit fields"),
    "export": Command(
        "apps.interop", "Export", "export", "STORE --format NAME --out DIR", "write another project's files"
    ),
    "import": Command(
        "apps.interop", "Import", "import_", "PATH --format NAME --out DIR", "read another project's files"
    ),
    "recipes": Command("apps.recipes", "List", "list_recipes", "", "list the named ways to make a population"),
    "recipes show": Command("apps.recipes", "Show", "show", "NAME", "all settings of one recipe"),
    "recipes check": Command(
        "apps.recipes", "Check", "check", "NAME SOURCE", "refit and compare with published statistics"
    ),
    "bench fit": Command("apps.benchmark", "BenchFit", "bench_fit", "", "time one fitting step against other ways"),
    "bench mesh": Command("apps.benchmark", "BenchMesh", "bench_mesh", "", "time the extraction of surfaces"),
    "bench view": Command("apps.benchmark", "BenchView", "bench_view", "", "time the viewer and tell its memory"),
    "bench wsnets": Command(
        "apps.benchmark", "BenchWsnets", "bench_wsnets", "", "time networks on fields beside their public code"
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line (without the program's name) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _main(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:  # before or after the command itself
        print("\nnf: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return READER_GONE


def run() -> None:
    """Entry point of the installed program `nf`."""
    sys.exit(main())


def _main(words: list[str]) -> int:
    name = find_command(words)
    if name is None:
        return _root(words)
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    options = _parse(getattr(module, command.options), name, words[len(name.split()) :])
    if isinstance(options, int):
        return options
    return _run(getattr(module, command.function), options)


def find_command(words: list[str]) -> str | None:
    """Return the longest command that the words begin with, or None."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if len(words) >= count and name in COMMANDS:
            return name
    return None


def _parse(kind: Any, name: str, words: list[str]) -> Any:
    """Options of a command, or the exit code when help was asked for or the words do not fit."""
    import contextlib
    import io

    import tyro

    from apps.complaint import complaint

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"nf {name}", args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as leave:
        if leave.code == BAD_INPUT:
            print(f"nf: error: {complaint(said.getvalue(), name)}", file=sys.stderr)
        return leave.code if isinstance(leave.code, int) else BAD_INPUT


def _run(function: Callable[..., int | None], options: Any) -> int:
    """Run a command; its `output` options say what is printed, its `out` where unfinished work lies."""
    output = Output(options.output.json, options.output.quiet)
    try:
        code = function(options, output)
        output.close()
        return code or 0
    except KeyboardInterrupt:
        kept = getattr(options, "keeps_partial_work", False) and os.path.exists(options.out)
        where = f": partial work is kept in {options.out}; run the same command again to go on" if kept else ""
        print(f"\nnf: interrupted{where}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (*BAD_INPUT_ERRORS, MemoryError, RuntimeError) as error:
        is_large = isinstance(error, MemoryError) or NO_MEMORY in str(error)
        if os.environ.get("NF_DEBUG") == "1" or not (is_large or isinstance(error, BAD_INPUT_ERRORS)):
            raise
        if is_large:
            error = ValueError(f"out of memory: {one_line(error)}; expected less at once")
        # Of the processes that torchrun starts all find the same fault, and one says it; a lost process is news to all.
        if os.environ.get("RANK", "0") == "0" or isinstance(error, ConnectionError):
            print(f"nf: error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT


def one_line(error: Exception) -> str:
    """An error's message in one line; errors of the operating system begin with the path."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _root(words: list[str]) -> int:
    """Help and version, and what to say about words that are no command."""
    asked = [word for word in words if word in ("-h", "--help")]
    group = [word for word in words if not word.startswith("-")]
    inside = {name: command for name, command in COMMANDS.items() if name.split()[: len(group)] == group}
    if words == ["--version"]:
        from apps.versions import own_version

        print(f"neuralfields {own_version()}")
        return 0
    if (not words) or (asked and inside and len(asked) + len(group) == len(words)):
        print(_help(inside))
        return 0
    known = [name for name in COMMANDS if group and name.split()[0] == group[0]] or list(COMMANDS)
    print(f"nf: error: command {' '.join(words[:2])!r}: expected one of {', '.join(known)}", file=sys.stderr)
    return BAD_INPUT


def _help(commands: dict[str, Command]) -> str:
    lines = [(f"  nf {name} {command.usage}".rstrip(), command.summary) for name, command in commands.items()]
    width = max(len(usage) for usage, _ in lines)
    return "\n".join(
        [
            "usage: nf COMMAND [options]",
            "",
            "Fit populations of neural fields, read their weights with networks, look at everything.",
            "",
            *(f"{usage:<{width}}  {summary}" for usage, summary in lines),
            "",
            "`nf COMMAND --help` explains the options of a command."
            + (" Start with `nf demo`." if "demo" in commands else ""),
        ]
    )


if __name__ == "__main__":
    run()
