"""Truth: what fields were fitted to, found again at the source they were fitted from; read when first asked for."""

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from apps.options import ImageOptions
from apps.viewer.collection import Part

if TYPE_CHECKING:
    from torch import Tensor

    from fitting.signals.image import ImageSignals
    from fitting.signals.views import ViewSet
    from neuralfields.render.mesh import Mesh


class Truth:
    """Originals of the fields of a store. source: as it was fitted; images: how pictures of it are read.

    Raises ValueError, when first asked, for a source that is not there or has other originals.
    """

    def __init__(self, source: str, images: ImageOptions) -> None:
        self._source, self._options = source, images
        self._lock = threading.Lock()
        self._images: tuple[ImageSignals, dict[int, int]] | None = None  # and the place of each id
        self._views: tuple[tuple[str, int], ViewSet] | None = None

    def picture(self, part: Part, row: int) -> "Tensor":
        """The picture that a field was fitted to: (H, W, C) in [0, 1]."""
        from apps.render import check_fitted, source_images
        from neuralfields import FieldStore

        with self._lock:
            if self._images is None:
                options = replace(self._options, limit=None)
                found = source_images(part.meta, self._source, options)
                if isinstance(part.fields, FieldStore):
                    check_fitted(part.fields, found, self._source, options)
                self._images = found, {int(number): place for place, number in enumerate(found.ids)}
            images, places = self._images
        # Several fits of one image have ids of their own, and the image's as their group.
        number = int(part.column("group" if "group" in part.columns else "id")[row])
        if number not in places:
            raise ValueError(f"beside={self._source!r}: has no image with id {number}; expected those of the store")
        return images.values(np.array([places[number]]))[0]

    def mesh(self, part: Part, row: int) -> "Mesh":
        """The shape that a field was fitted to, in the box."""
        from apps.render_shapes import fitted, original

        name = str(part.column("name")[row])
        return original(self._source, name, fitted(part, name))

    def photographs(self, part: Part, row: int) -> "ViewSet":
        """The photographs that a radiance field was fitted to and those held out, of the last scene asked for."""
        from apps.viewer.photographs import photographs

        with self._lock:
            if self._views is None or self._views[0] != part.key(row):
                self._views = (part.key(row), photographs(part, row, self._source))
            return self._views[1]
