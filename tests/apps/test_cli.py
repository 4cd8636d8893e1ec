"""The command line as a whole: help, dispatch, exit codes."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from apps import cli

ROOT = Path(__file__).parents[2]


def start(*words: object, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "apps", *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def heed_interrupts() -> None:
    """Undo what a shell does to the jobs it starts in the background: their children, too, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_help_of_every_command_imports_nothing_slow() -> None:
    lines = ["import sys", "from apps.cli import main"]
    lines += [f"assert main({name.split()!r} + ['--help']) == 0" for name in cli.COMMANDS]
    lines += ["assert main([]) == main(['--help']) == main(['recipes', '-h']) == main(['fit', '--help']) == 0"]
    lines += ["slow = ['torch', 'pyarrow', 'matplotlib', 'sklearn', 'neuralfields', 'jax']"]
    lines += ["print([name for name in slow if name in sys.modules])"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_each_of_its_options(name: str, nf) -> None:
    shown = nf(*name.split(), "--help")
    assert shown.code == 0
    assert f"usage: nf {name}" in shown.out
    assert "--json" in shown.out
    assert "--quiet" in shown.out
    command = cli.COMMANDS[name]
    assert callable(getattr(importlib.import_module(command.module), command.function))


def test_no_argument_prints_help(nf) -> None:
    shown = nf()
    assert shown.code == 0
    assert all(f"nf {name}" in shown.out for name in cli.COMMANDS)


def test_help_of_a_group_lists_the_group(nf) -> None:
    shown = nf("fit", "--help")
    assert shown.code == 0
    assert "nf fit images" in shown.out
    assert "nf demo" not in shown.out


def test_longest_command_wins() -> None:
    assert cli.find_command(["recipes", "show", "x"]) == "recipes show"
    assert cli.find_command(["recipes"]) == "recipes"
    assert cli.find_command(["fit"]) is None


@pytest.mark.parametrize(
    ("words", "said"), [(["demmo"], "demo"), (["fit", "audio"], "fit images"), (["--bad"], "demo")]
)
def test_unknown_command_names_the_known_ones(words: list[str], said: str, nf) -> None:
    nf(*words).assert_refused(words[-1], said)


def test_unknown_option_is_a_usage_error(nf) -> None:
    assert nf("info", "--no-such-option").code == 2
    assert nf("fit", "images").code == 2


def test_version(nf) -> None:
    shown = nf("--version")
    assert shown.code == 0
    assert shown.out.startswith("neuralfields ")


def test_debug_shows_the_traceback(nf, monkeypatch: pytest.MonkeyPatch) -> None:
    nf("info", "no/such/store").assert_refused("no/such/store")
    monkeypatch.setenv("NF_DEBUG", "1")
    with pytest.raises(OSError, match="no/such/store"):
        nf("info", "no/such/store")


def test_one_line_of_an_error() -> None:
    assert cli.one_line(ValueError("two\n  lines")) == "two lines"
    assert cli.one_line(FileNotFoundError(2, "No such file", "x.npz")) == "x.npz: No such file"
    assert cli.one_line(FileNotFoundError("source='x': no such file")) == "source='x': no such file"
    assert cli.one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("37.3 GiB"), "out of memory: 37.3 GiB; expected less at once"),
        (RuntimeError("[enforce] can't allocate memory: 80 bytes"), "out of memory: [enforce] can't allocate memory"),
    ],
)
def test_too_large_a_wish_is_one_line(error, said: str, nf, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("apps.recipes.list_recipes", fail)
    nf("recipes").assert_refused(f"nf: error: {said}")


def test_an_interrupt_before_the_command_is_one_line(nf, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("apps.cli._parse", interrupted)
    done = nf("recipes")
    assert (done.code, done.err) == (cli.INTERRUPTED, "\nnf: interrupted\n")


def test_a_bug_keeps_its_traceback(nf, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: object, output: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("apps.info.info", broken)
    with pytest.raises(KeyError, match="bug"):
        nf("info")


def test_reader_that_goes_away_is_no_error() -> None:
    process = start("recipes")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == cli.READER_GONE
    assert error == ""


def test_interrupted_fit_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", x=pixels)
    out = tmp_path / "store"
    words = ["fit", "images", tmp_path / "x.npz", "--out", out, "--shard", 1, "--backend", "torch", "--threads", 1]
    process = start(*words, "--steps", 100, start_new_session=True, preexec_fn=heed_interrupts)
    deadline = time.monotonic() + 60
    while not list(out.glob("index-*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == cli.INTERRUPTED, error
    assert f"partial work is kept in {out}; run the same command again to go on" in error.splitlines()[-1]
    assert "Traceback" not in error
    again = start(*words, "--steps", 100, "--json")
    printed, error = again.communicate()
    assert again.returncode == 0, error
    figures = json.loads(printed.splitlines()[-1])
    assert figures["fields"] == 24
    assert 0 < figures["found"] < 24
    assert figures["fitted"] == 24 - figures["found"]
