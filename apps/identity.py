"""What tells stores and networks from others, whatever their folders are called: what is made of them depends on it."""

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def store_sha256(path: "Path") -> str:
    """Of the description of a store and of all its indices, which hold the checksums of the rest."""
    found = hashlib.sha256((path / "store.json").read_bytes())
    for index in sorted(path.glob("index-*.parquet")):
        found.update(index.read_bytes())
    return found.hexdigest()


def network_sha256(network: Any) -> str:
    """Of the parameters and buffers of a trained network's model."""
    from wsnets.field_generator import digest

    model: nn.Module = network.model
    return digest(model)
