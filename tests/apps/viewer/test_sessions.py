"""Threads, addresses and files of a viewer."""

import threading

import pytest

from apps.viewer.jobs import Jobs


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("view-")}


def test_a_page_that_is_closed_leaves_no_thread(serve, look, digits):
    from tests.apps.viewer.conftest import until

    viewer = serve(digits)
    page = look(viewer)
    assert threads() == {f"view-{page.session.client.client_id}"}
    page.page.close()
    until(lambda: not viewer.sessions and not threads())


def test_it_serves_this_machine_alone_and_opens_no_tunnel(serve, digits):
    viewer = serve(digits)
    assert viewer.address.startswith("http://127.0.0.1:")
    assert viewer._server.request_share_url() is None


def test_the_newest_job_of_a_key_drops_the_one_before():
    said, errors = [], []
    jobs = Jobs("view-test", errors.append)
    go = threading.Event()

    def slow():
        said.append("slow 1")
        yield 0.0
        go.wait(10)
        yield 0.0
        said.append("slow 2")

    def quick():
        said.append("quick")
        yield 0.0
        said.append("quick, again")

    jobs.do("draw", slow)
    jobs.do("draw", quick)
    jobs.do("other", lambda: said.append("other"))
    go.set()
    assert jobs.wait(10)
    jobs.close()
    assert "slow 2" not in said
    assert said[-1] == "quick, again"
    assert "other" in said
    assert not errors


def test_an_error_is_told_and_the_thread_goes_on(capsys):
    errors, done = [], []

    def fails():
        raise ValueError("no such thing")

    jobs = Jobs("view-test", errors.append)
    jobs.do("a", fails)
    jobs.do("b", lambda: done.append(1))
    assert jobs.wait(10)
    jobs.close()
    assert [str(error) for error in errors] == ["no such thing"]
    assert done == [1]


@pytest.mark.parametrize("position", [-1, 120])
def test_a_position_outside_is_refused(digits_part, position):
    from apps.viewer.collection import Collection

    with pytest.raises(ValueError, match="expected 0 to 119"):
        Collection([digits_part]).place(position)


@pytest.mark.parametrize(
    ("settings", "words"), [({"port": 65536}, "port=65536"), ({"host": "203.0.113.7"}, "host='203.0.113.7'")]
)
def test_an_address_that_cannot_be_listened_at_is_refused(digits, settings, words):
    pytest.importorskip("viser")
    from apps.viewer.server import Viewer, ViewerConfig

    with pytest.raises(ValueError, match=words):
        Viewer(digits, ViewerConfig(**{"port": 0, **settings}))
    assert threads() == set()
