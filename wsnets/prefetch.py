"""Read ahead: while the model computes, a thread fetches what it needs next."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Fetched = TypeVar("Fetched")


def ahead(
    fetch: Callable[[Item], Fetched], items: Iterable[Item], depth: int = 3
) -> Generator[tuple[Item, Fetched, float]]:
    """Yield (item, fetch(item), seconds waited for it) in order, at most `depth` fetched before they are asked for."""
    waiting: deque[tuple[Item, Future[Fetched]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        for item in items:
            waiting.append((item, pool.submit(fetch, item)))
            if len(waiting) > depth:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)


def _first(waiting: deque[tuple[Item, Future[Fetched]]]) -> tuple[Item, Fetched, float]:
    item, future = waiting.popleft()
    started = time.perf_counter()
    fetched = future.result()
    return item, fetched, time.perf_counter() - started
