"""A page to share: the fields in view as one file that opens in any browser, without this program or a network."""

import base64
import io
from collections.abc import Generator
from typing import Any

import numpy as np

from apps.edit import spread
from apps.viewer import export
from apps.viewer.collection import NO_LABEL, Collection, Part, Query
from apps.viewer.export import Say
from apps.viewer.share_page import share_page
from apps.viewer.thumbnails import thumbnails

MOST_SHOWN = 500
LARGER = {"pictures": 60, "shapes": 60, "scenes": 12}  # fields with a second picture
SMALL, LARGE = 112, 400  # pixels
QUALITY = 90  # of JPEG
NOT_SAID = ("label", "group", "name")  # columns that a caption says already, or that mean nothing to people


def share(
    collection: Collection, chosen: np.ndarray, query: Query, title: str, say: Say
) -> Generator[float, None, str]:
    """The HTML of the page of the fields in view: at most MOST_SHOWN of them, spread evenly; yields between pictures.

    Raises ValueError where no field is in view.
    """
    if not len(chosen):
        raise ValueError("no field is in view: expected a filter that keeps some")
    positions, columns = chosen[spread(len(chosen), MOST_SHOWN)], collection.numeric
    labels = sorted({int(label) for label in collection.labels[positions]})
    fields = []
    for number, position in enumerate(positions.tolist()):
        part, row = collection.place(position)
        small = thumbnails(part, np.array([row]), SMALL)[0]
        yield 0.0
        large = (yield from larger(part, row)) if number < LARGER[part.kind] else None
        yield 0.0
        fields.append(
            {
                "name": collection.name(position),
                "label": labels.index(int(part.columns["label"][row])),
                "values": [figure(part, row, name) for name in columns],
                "figures": figures(collection, part, row),
                "small": data_uri(small),
                "large": None if large is None else data_uri(large),
            }
        )
        say(f"field {number + 1} of {len(positions)}")
    data = {
        "facts": facts(collection, chosen),
        "labels": [collection.label_name(label) for label in labels],
        "columns": [words(name) for name in columns],
        "fields": fields,
    }
    return share_page(title, [collection.parts[0].spec.describe(), selection(collection, chosen, query)], data)


def larger(part: Part, row: int) -> Generator[float, None, np.ndarray]:
    """The second picture of a field: uint8 (H, W, 3)."""
    if part.kind == "scenes":
        return (yield from export.picture(part, row, LARGE))
    return thumbnails(part, np.array([row]), LARGE)[0]


def selection(collection: Collection, chosen: np.ndarray, query: Query) -> str:
    """A sentence about which fields are shown, in which order."""
    kept = []
    if query.label is not None:
        kept.append(f"of class {collection.label_name(query.label)}")
    kept += [f"of split {query.split}"] * (query.split is not None)
    kept += [f"made by {query.part}"] * (query.part is not None)
    kept += [f"with {words(query.by)} from {query.low:.4g} to {query.high:.4g}"] * bool(query.by)
    order = f"{words(query.sort)}, {'largest' if query.descending else 'smallest'} first" if query.sort else ""
    all_of = "All" if len(chosen) == len(collection) else f"{len(chosen):,} of"
    sentence = f"{all_of} {len(collection):,} fields" + (f", {' and '.join(kept)}" if kept else "")
    sentence += f"; sorted by {order}." if order else "."
    if len(chosen) > MOST_SHOWN:
        sentence += f" {MOST_SHOWN:,} of them are shown, spread evenly."
    return sentence


def facts(collection: Collection, chosen: np.ndarray) -> list[tuple[str, str]]:
    """Names and values for the head of the page."""
    part, quality = collection.parts[0], collection.quality
    found = [("Fields", f"{len(collection):,}")]
    if part.meta.get("recipe"):
        found.append(("Recipe", str(part.meta["recipe"])))
    if part.kind == "pictures" and part.size != (1, 1):
        found.append(("Size of pictures", "{} x {}".format(*part.size)))
    if quality:
        values = collection.column(quality)[chosen]
        values = values[np.isfinite(values)]
        if len(values):
            found.append((f"Median {words(quality)}", f"{np.median(values):.4g}"))
            found.append((f"Lowest {words(quality)}", f"{values.min():.4g}"))
    return found


def figure(part: Part, row: int, name: str) -> float | None:
    """A figure of a field for sorting; None where it has none."""
    value = part.columns[name][row] if name in part.columns else None
    return float(value) if value is not None and np.isfinite(value) else None


def figures(collection: Collection, part: Part, row: int) -> list[tuple[str, str]]:
    """All that the index says of a field, as names and words."""
    label = int(part.columns["label"][row])
    found = [] if label == NO_LABEL else [("class", collection.label_name(label))]
    if str(part.columns["name"][row]):
        found.append(("name", str(part.columns["name"][row])))
    for name, values in part.columns.items():
        value: Any = values[row]
        if name in NOT_SAID or value is None or value == "":
            continue
        if isinstance(value, float | np.floating):
            if np.isfinite(value):
                found.append((words(name), f"{value:.4g}"))
        else:
            found.append((words(name), str(value)))
    return found


def words(column: str) -> str:
    """A column's name for people."""
    return {"psnr": "PSNR in dB", "ssim": "SSIM", "iou": "IoU", "id": "number"}.get(column, column.replace("_", " "))


def data_uri(picture: np.ndarray) -> str:
    """A picture uint8 (H, W, 3) as a JPEG within an address."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
