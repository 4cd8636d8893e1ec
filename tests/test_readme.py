"""The README's first code block runs as it stands, and its first screen names the two commands."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
SCREEN_LINES = 40


def test_first_screen_names_the_two_commands() -> None:
    screen = README.read_text(encoding="utf-8").splitlines()[:SCREEN_LINES]
    for command in ("make demo", "make test"):
        assert any(line.startswith(command) for line in screen), f"{command} is not on the first {SCREEN_LINES} lines"


def test_first_python_block_runs(tmp_path: Path) -> None:
    block = re.search(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block is not None, "README.md has no python block"
    script = tmp_path / "readme.py"
    script.write_text(block.group(1), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
