"""`python -m apps` is `nf`."""

from apps.cli import run

run()
