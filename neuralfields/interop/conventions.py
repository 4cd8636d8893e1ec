"""What the files of other projects leave out of a field, and where it may come from.

A foreign checkpoint holds tensors. The picture also needs the activation, w0, the output scale and offset and the pixel
coordinates. They come from the folder's own statements, from explicit conventions, or not at all: nothing is guessed.
"""

from dataclasses import dataclass, fields

from neuralfields.spec import PERIODIC, Activation, Axes, FieldSpec, Grid

Value = str | float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """Facts about a foreign population that its files may not hold; None means "not given".

    activation, w0, w0_hidden (w0 when not given), width, scale, offset, grid, axes as in FieldSpec: value = scale *
    output + offset, one number for all channels or one per channel.
    """

    activation: Activation | None = None
    w0: float | None = None
    w0_hidden: float | None = None
    width: float | None = None
    scale: float | tuple[float, ...] | None = None
    offset: float | tuple[float, ...] | None = None
    grid: Grid | None = None
    axes: Axes | None = None

    def given(self) -> dict[str, Value]:
        """Return the facts that are not None."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


def build_spec(
    where: str, dims: tuple[int, ...], given: Conventions, stated: Conventions, published: Conventions
) -> FieldSpec:
    """Make the spec of a folder without a sidecar from what was `given` and what the folder has `stated` itself.

    dims: widths of every stage, from the tensors. Raises ValueError when the two contradict each other, or when facts
    are missing; the message then names them and quotes the `published` ones, which are never used by themselves.
    """
    facts = stated.given()
    for name, value in given.given().items():
        if name in facts and _channels(facts[name], dims[-1]) != _channels(value, dims[-1]):
            raise ValueError(f"{name}={value!r} contradicts {where}, which says {facts[name]!r}")
        facts[name] = value
    missing = [name for name in _required(facts.get("activation")) if name not in facts]
    if missing:
        usual = ", ".join(f"{name}={value!r}" for name, value in published.given().items())
        raise ValueError(
            f"{where} has no neuralfields.json, so {', '.join(missing)} must be given;"
            f" the public code of this format uses {usual}"
        )
    w0 = facts.get("w0", 30.0)  # without effect, and not required, where the activation has no frequency
    options = {name: facts[name] for name in ("activation", "width", "grid", "axes") if name in facts}
    options |= {name: _channels(facts[name], dims[-1]) for name in ("scale", "offset")}
    options |= {"w0_first": w0, "w0_hidden": facts.get("w0_hidden", w0)}
    return FieldSpec(in_dim=dims[0], out_dim=dims[-1], hidden=dims[1:-1], **options)  # pyright: ignore[reportArgumentType]


def check_spec(where: str, spec: FieldSpec, dims: tuple[int, ...], given: Conventions, stated: Conventions) -> None:
    """Raise ValueError when a sidecar's spec contradicts the tensors, an explicit convention or the folder itself."""
    if spec.dims != dims:
        raise ValueError(f"{where}: neuralfields.json says layers {spec.dims}, the tensors have {dims}")
    said = {"w0": spec.w0_first, **{name: getattr(spec, name) for name in ("activation", "width", "grid", "axes")}}
    said |= {"w0_hidden": spec.w0_hidden, "scale": spec.scale, "offset": spec.offset}
    for source in (given, stated):
        for name, value in source.given().items():
            if _channels(said[name], spec.out_dim) != _channels(value, spec.out_dim):
                raise ValueError(f"{name}={value!r} contradicts {where}/neuralfields.json, which says {said[name]!r}")


def _required(activation: Value | None) -> list[str]:
    names = ["activation", "scale", "offset", "grid", "axes"]
    if activation is None or activation in PERIODIC:
        names.insert(1, "w0")
    if activation in ("gauss", "gabor"):
        names.insert(1, "width")
    return names


def _channels(value: Value, channels: int) -> Value:
    """Spread one number over the channels, so that 0.5 and (0.5, 0.5, 0.5) compare equal."""
    if isinstance(value, str):
        return value
    numbers = tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),)
    return numbers * channels if len(numbers) == 1 else numbers
