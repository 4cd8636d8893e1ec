"""Maps: populations on a plane, worked out once for all browsers, one at a time."""

import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator

from apps.viewer.clouds import Cloud
from apps.viewer.collection import Part
from apps.viewer.projections import FlatMap, Progress, methods
from apps.viewer.spaces import Space

ROOM = 256 << 20  # bytes of kept points
WAITING = "Waiting for another browser's map"


class Maps:
    """Clouds by space and number of fields; maps by space, method and number of fields. Older numbers are dropped."""

    def __init__(self) -> None:
        self._clouds: OrderedDict[tuple[str, int], Cloud] = OrderedDict()
        self._maps: dict[tuple[str, str], FlatMap] = {}
        self._lock, self._work = threading.Lock(), threading.Lock()

    def find(self, space: Space, method: str) -> FlatMap | None:
        """The map, if it is there; that of fewer fields where the store has grown since."""
        with self._lock:
            return self._maps.get((space.name, method))

    def make(self, part: Part, space: Space, method: str) -> Generator[Progress, None, None]:
        """Work a map out in pieces, unless it is there; waits for another browser that does so."""
        if self._knows(part, space, method):
            return
        cloud = yield from self.cloud(part, space)
        yield from self._alone()
        try:
            if not self._knows(part, space, method):  # another browser may have been at it
                found = yield from methods()[method](cloud)
                with self._lock:
                    self._maps[space.name, method] = found
        finally:
            self._work.release()

    def _knows(self, part: Part, space: Space, method: str) -> bool:
        known = self.find(space, method)
        return known is not None and known.total >= len(part)

    def cloud(self, part: Part, space: Space) -> Generator[Progress, None, Cloud]:
        """The points of the fields of a part, worked out in pieces where they are not there."""
        yield from self._alone()
        try:
            with self._lock:
                for key in [key for key in self._clouds if key[1] != len(part)]:
                    del self._clouds[key]
                cloud = self._clouds.setdefault((space.name, len(part)), Cloud(part, space))
                self._clouds.move_to_end((space.name, len(part)))
            for share in cloud.fill():
                yield space.doing, share
            self._make_room()
        finally:
            self._work.release()
        return cloud

    def _make_room(self) -> None:
        """Drop the points that were longest not asked for."""
        with self._lock:
            while len(self._clouds) > 1 and sum(cloud.num_bytes for cloud in self._clouds.values()) > ROOM:
                self._clouds.popitem(last=False)

    def _alone(self) -> Iterator[Progress]:
        """Take the lock; whoever works may be dropped at any piece, which gives it back."""
        while not self._work.acquire(blocking=False):
            yield WAITING, 0.0
