"""Read ahead: while one thread goes on, others fetch what it needs next."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

Item = TypeVar("Item")
Fetched = TypeVar("Fetched")


def ahead(
    fetch: Callable[[Item], Fetched], items: Iterable[Item], depth: int = 3, pool: Executor | None = None
) -> Generator[tuple[Item, Fetched, float]]:
    """Yield (item, fetch(item), seconds waited for it) in order, at most `depth` fetched before they are asked for.

    pool: who fetches, and stays; a thread of its own otherwise.
    """
    waiting: deque[tuple[Item, Future[Fetched]]] = deque()
    with nullcontext(pool) if pool else ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
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
