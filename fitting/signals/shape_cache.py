"""Shapes prepared on disk: cleaned, normalised, sampled once for every content and pool, then found again.

A cache holds one safetensors file per shape, named by what decides it: the bytes of the source and the pool. It exists
whole or not at all, so that an interrupted preparation goes on at the first shape that is missing.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fitting.signals.distance import ShapeDistance, SignReport
from fitting.signals.mesh_files import Geometry, read_geometry
from fitting.signals.mesh_repair import MeshReport, Transform, clean, normalise_shape, require_inside
from fitting.signals.shape_groups import signature
from fitting.signals.shape_pool import Pool, PoolConfig, check_points, draw_pool


@dataclass(frozen=True, eq=False)
class Prepared:
    """One shape: where it came from, what was found, and where its pool lies.

    name: for people; path: source file; cached: file of the pool; digest: sha256 of the source; transform: from the
    file's units to the box; report, sign: the mesh and its inside; signature: what copies share.
    """

    name: str
    path: Path
    cached: Path
    digest: str
    transform: Transform
    report: MeshReport
    sign: SignReport
    signature: np.ndarray

    def pool(self) -> Pool:
        """Return the pool, read from disk."""
        with safe_open(self.cached, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in ("points", "distance", "normals", "inside")}
        return Pool(**{**tensors, "inside": tensors["inside"].astype(bool)})

    def geometry(self) -> Geometry:
        """Return the cleaned and normalised geometry, read again. Raises ValueError when its source has changed."""
        if _digest(self.path) != self.digest:
            raise ValueError(f"{self.path.name} has changed since its points were drawn: expected the same file")
        return _load(self.path)[0]

    @property
    def key(self) -> int:
        """Source of the pool's randomness."""
        return int(self.digest[:8], 16)

    def warning(self) -> str | None:
        """One line when the inside is not beyond doubt, else None."""
        if self.sign.rule == "none":
            return f"has no inside ({self.sign.why}): only unsigned distances"
        if self.sign.rule == "winding":
            differ = (
                f"; ray casting disagrees on {100 * self.sign.disagree:.1f} % of points" if self.sign.checked else ""
            )
            return f"{self.sign.why}; inside by winding number{differ}"
        if self.sign.disagree > 0.001:
            return f"closed, but the winding number disagrees on {100 * self.sign.disagree:.1f} % of points"
        if self.report.merged:
            return f"{self.report.merged:,} vertices at equal positions merged: closed only by that"
        return None

    def to_json(self) -> dict:
        """Return plain JSON values for a store."""
        return {
            "transform": {"scale": self.transform.scale, "offset": list(self.transform.offset)},
            "sign": {**self.sign.to_json(), "disagree": _or_none(self.sign.disagree)},
            "mesh": {**self.report.to_json(), "volume": _or_none(self.report.volume)},
        }


def default_cache() -> Path:
    """Folder of the pools of this user: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuralfields" / "shapes"


def prepare(path: Path, name: str, pool: PoolConfig, cache: Path, needs_inside: bool) -> Prepared:
    """Return a shape with its pool, from the cache or made now.

    Raises FileNotFoundError for a missing file, ValueError for one that cannot be used, or has no inside where one is
    needed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name}: no such file")
    digest = _digest(path)
    cached = cache / f"{digest[:32]}-{pool.fingerprint()}.safetensors"
    found = _read(path, name, cached, digest)
    if found is not None and not (needs_inside and found.sign.rule == "none"):
        return found
    geometry, report, transform = _load(path)
    if needs_inside:
        require_inside(geometry, report)
    shape = ShapeDistance(geometry, report)
    sign = shape.sign_report(check_points(pool, int(digest[:8], 16)))
    result = Prepared(name, path, cached, digest, transform, report, sign, signature(geometry))
    _write(result, draw_pool(shape, pool, result.key))
    return result


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load(path: Path) -> tuple[Geometry, MeshReport, Transform]:
    geometry, report = clean(read_geometry(path))
    normalised, transform = normalise_shape(geometry)
    return normalised, report, transform


def _read(path: Path, name: str, cached: Path, digest: str) -> Prepared | None:
    """The shape as cached, or None where it is not, or not whole."""
    if not cached.is_file():
        return None
    try:
        with safe_open(cached, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None  # a damaged cache is made again
    transform = Transform(facts["transform"]["scale"], tuple(facts["transform"]["offset"]))
    report = MeshReport(**{**facts["mesh"], "volume": _or_nan(facts["mesh"]["volume"])})
    sign = SignReport(**{**facts["sign"], "disagree": _or_nan(facts["sign"]["disagree"])})
    return Prepared(name, path, cached, digest, transform, report, sign, np.array(facts["signature"]))


def _write(shape: Prepared, pool: Pool) -> None:
    facts = json.dumps({**shape.to_json(), "signature": shape.signature.tolist()})
    tensors = {name: np.ascontiguousarray(value) for name, value in vars(pool).items() if name != "inside"}
    tensors["inside"] = pool.inside.astype(np.uint8)
    shape.cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = shape.cached.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(save(tensors, {"facts": facts}))
        temporary.replace(shape.cached)
    finally:
        temporary.unlink(missing_ok=True)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
