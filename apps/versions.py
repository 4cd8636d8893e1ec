"""What this machine and installation are: for `nf info` and for every report."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "numpy", "safetensors", "pyarrow", "scikit-learn", "scikit-image", "matplotlib")


def own_version() -> str:
    """Version of the installed package, or 'not installed' when run from a source tree alone."""
    return package_version("neuralfields") or "not installed"


def package_version(name: str) -> str | None:
    """Version of an installed package, None where it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Name -> version of Python, this package and what it stands on; packages that are absent are left out."""
    found = {name: package_version(name) for name in PACKAGES}
    own = {"neuralfields": own_version(), "python": platform.python_version()}
    return own | {name: version for name, version in found.items() if version is not None}


def cores() -> int:
    """Number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Name of the processor as the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
