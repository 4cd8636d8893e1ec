"""What tells stores from others, whatever their folders are called: what is made of them depends on it."""

import hashlib
from pathlib import Path


def store_sha256(path: Path) -> str:
    """Of the description of a store and of all its indices, which hold the checksums of the rest."""
    found = hashlib.sha256((path / "store.json").read_bytes())
    for index in sorted(path.glob("index-*.parquet")):
        found.update(index.read_bytes())
    return found.hexdigest()
