"""Reading ahead keeps order, hands on errors, and reads no further than it was told."""

import threading

import pytest

from wsnets.allocator import keep_freed_memory
from wsnets.prefetch import ahead


def test_items_come_in_order_with_what_was_fetched():
    found = list(ahead(lambda x: x * x, range(10), depth=2))
    assert [(item, square) for item, square, _ in found] == [(x, x * x) for x in range(10)]
    assert all(waited >= 0 for *_, waited in found)


def test_it_reads_ahead_in_another_thread_but_not_further():
    seen: list[tuple[int, int]] = []
    stream = ahead(lambda x: seen.append((x, threading.get_ident())), range(100), depth=3)
    next(stream)
    stream.close()
    assert 1 <= len(seen) <= 5
    assert all(thread != threading.get_ident() for _, thread in seen)


def test_an_error_reaches_the_one_who_waits():
    stream = ahead(lambda x: 1 // x, [1, 0, 1])
    assert next(stream)[1] == 1
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_memory_that_is_freed_is_kept_where_glibc_is_the_allocator():
    import platform

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
