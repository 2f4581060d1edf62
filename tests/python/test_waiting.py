# SPDX-License-Identifier: Apache-2.0
"""wait, and what every call that waits has in common: Ctrl-C, deadlines, death."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import numpy as np
import pytest

import forebay
from support import Other, eventually, waits


@pytest.fixture
def alarm():
    """Runs something in a signal handler, soon."""

    @contextlib.contextmanager
    def set_alarm(action):
        before = signal.signal(signal.SIGALRM, lambda *_: action())
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return set_alarm


class TestWait:
    def test_what_is_there_is_ready_at_once(self, store):
        store.put("a", np.zeros(1))
        assert store.wait(["a"]) == (["a"], [])
        assert store.wait(["b", "a"], timeout=0) == (["a"], ["b"])

    def test_both_lists_hold_the_items_themselves_in_their_order(self, store):
        ref = store.put("r", np.zeros(1))
        for name in ("a", "b", "c"):
            store.put(name, np.zeros(1))
        items = ["c", ("missing", 1), b"a", ref, ("b", 1), ("b", 2)]
        ready, not_ready = store.wait(items, 4, 0)
        assert [id(one) for one in ready] == [id(items[i]) for i in (0, 2, 3, 4)]
        assert [id(one) for one in not_ready] == [id(items[i]) for i in (1, 5)]

    def test_ready_is_never_longer_than_asked_for(self, store):
        store.put_many({name: np.zeros(1) for name in "abcd"})
        assert store.wait(list("abcd"), 2) == (["a", "b"], ["c", "d"])
        assert store.wait(iter("abcd")) == (["a"], ["b", "c", "d"])

    def test_it_ends_when_enough_are_sealed_by_others(self, store):
        script = """
            hear()
            store.put("b", np.zeros(1))
            hear()
            store.put("a", np.zeros(1))
        """
        with Other(store, script) as other:
            other.tell()
            assert store.wait(["a", "b", "c"], timeout=20) == (["b"], ["a", "c"])
            other.tell()
            assert store.wait(["a", "b", "c"], 2, timeout=20) == (["a", "b"], ["c"])
            assert other.join() == 0

    def test_an_exact_version_is_waited_for(self, store):
        store.put("a", np.zeros(1))
        assert store.wait([("a", 2), ("a", None)], 2, 0.02) == ([("a", None)], [("a", 2)])
        with Other(store, "hear(); store.put('a', np.zeros(1))") as other:
            other.tell()
            assert store.wait([("a", 2)], timeout=20) == ([("a", 2)], [])

    def test_at_the_deadline_it_says_what_there_is(self, store):
        store.put("a", np.zeros(1))
        start = time.monotonic()
        assert store.wait(["never", "a"], 2, 0.25) == (["a"], ["never"])
        assert 0.25 <= time.monotonic() - start < 10

    def test_without_a_timeout_it_takes_as_long_as_it_takes(self, store, alarm):
        # The handler runs after the first look for signals, and the wait goes on behind it.
        with alarm(lambda: store.put("a", np.zeros(1))):
            assert store.wait(["a"]) == (["a"], [])

    def test_nothing_is_pinned(self, store):
        store.put("a", np.zeros(1))
        store.wait(["a"])
        assert store.stat("a").holders == []

    def test_many_of_them(self, store):
        names = [f"a{i}" for i in range(3000)]
        store.put_many({name: np.zeros(1) for name in names})
        ready, not_ready = store.wait(["never", *names], 3000, 20)
        assert ready == names
        assert not_ready == ["never"]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (([],), forebay.BadArgument),
            ((["a"], 0), forebay.BadArgument),
            ((["a"], -1), forebay.BadArgument),
            ((["a"], 2), forebay.BadArgument),
            ((["a", "a"],), forebay.BadArgument),
            ((["a", b"a"],), forebay.BadArgument),
            (([("a", 1), ("a", 1)],), forebay.BadArgument),
            (([("a", 0)],), forebay.BadArgument),
            ((["a"], 1, -1), forebay.BadArgument),
            ((["a"], 1, float("inf")), forebay.BadArgument),
            ((["a"], 1, float("nan")), forebay.BadArgument),
            ((["a"], 1, "soon"), TypeError),
            ((["a"], "x"), TypeError),
            (("a",), TypeError),
            ((b"a",), TypeError),
            ((5,), TypeError),
            (([5],), TypeError),
            (([("a",)],), TypeError),
            (([("a", 1, 2)],), TypeError),
            (([("a", "x")],), TypeError),
            (([""],), forebay.BadId),
        ],
    )
    def test_bad_arguments_are_refused(self, store, arguments, error):
        with pytest.raises(error):
            store.wait(*arguments)

    def test_a_ref_and_its_version_are_the_same_thing_twice(self, store):
        ref = store.put("a", np.zeros(1))
        with pytest.raises(forebay.BadArgument, match="twice"):
            store.wait([ref, ("a", 1)])

    def test_a_ref_that_cannot_come_back_is_an_error(self, store, daemon):
        ref = store.put("a", np.zeros(1))
        store.remove("a")
        with pytest.raises(forebay.StaleRef):
            store.wait([ref])
        store.put("a", np.zeros(1), version=1)
        with pytest.raises(forebay.StaleRef):
            store.wait([ref])
        with daemon.connect() as other, pytest.raises(forebay.WrongStore):
            other.wait([ref])


# What waits for what never comes, and what the daemon calls it.
WAITS = {
    "get": ("store.get('never', timeout=600)", "waiters"),
    "get after": ("store.get('a', after=1, timeout=600)", "waiters"),
    "get of a version": ("store.get('a', 9, timeout=600)", "waiters"),
    "get_many": ("store.get_many(['a', 'never'], timeout=600)", "waiters"),
    "wait": ("store.wait(['never', 'a'], 2)", "waiters"),
    "get_or_create": ("store.get_or_create('claimed', lambda: 1)", "waiting_claims"),
    "next": ("store.subscribe('never').next()", "waiting_subscribers"),
    "iteration": ("next(iter(store.subscribe('never')))", "waiting_subscribers"),
    "future": ("store.get_async('never', concurrent=True).result()", "waiters"),
}


@pytest.fixture
def claimed(store, shared_daemon):
    """Somebody is making 'claimed', and takes his time."""
    store.put("a", np.zeros(1))
    done = threading.Event()
    begun = threading.Event()

    def load():
        begun.set()
        done.wait()
        return np.zeros(1)

    with shared_daemon.connect() as maker:
        thread = threading.Thread(target=lambda: maker.get_or_create("claimed", load))
        thread.start()
        begun.wait()
        yield
        done.set()
        thread.join()


class TestCtrlC:
    @pytest.mark.parametrize("name", WAITS)
    def test_it_ends_a_wait_within_moments(self, store, claimed, name):
        call, what = WAITS[name]
        script = f"""
            say("ready")
            try:
                {call}
            except KeyboardInterrupt:
                say("interrupted")
        """
        with Other(store, script) as other:
            assert other.hear() == "ready"
            assert waits(store, what)
            start = time.monotonic()
            other.interrupt()
            assert other.hear() == "interrupted"
            assert time.monotonic() - start < 5  # of which a wait takes a tenth of a second
            assert other.join() == 0

    def test_a_handler_that_does_not_raise_does_not_end_it(self, store):
        script = """
            import signal
            signal.signal(signal.SIGINT, lambda *_: say("heard"))
            say("ready")
            say(store.get("late", timeout=60)[0])
        """
        with Other(store, script) as other:
            assert other.hear() == "ready"
            assert waits(store, "waiters")
            other.interrupt()
            assert other.hear() == "heard"
            store.put("late", np.full(1, 5))
            assert other.hear() == "5"

    def test_handlers_run_while_the_main_thread_waits(self, store, alarm):
        heard = []
        with alarm(lambda: heard.append(1)):
            assert store.get("never", timeout=0.5, default=None) is None
        assert heard == [1]


@pytest.mark.parametrize("name", WAITS)
def test_a_waiter_that_is_killed_waits_no_more(store, claimed, name):
    call, what = WAITS[name]
    with Other(store, f"say('ready'); {call}") as other:
        assert other.hear() == "ready"
        assert waits(store, what)
        other.kill()
        assert waits(store, what, 0)


def test_a_wait_of_more_than_a_slice_names_the_whole_time(store):
    with pytest.raises(forebay.Timeout, match="'late within 5 ms' within 250 ms"):
        store.get("late within 5 ms", timeout=0.25)


def test_a_wait_goes_on_when_the_daemon_comes_back(daemon):
    with daemon.connect() as store:
        store.put("a", np.zeros(1))

        def come_back_and_put():
            with daemon.connect() as other:
                assert waits(other, "waiters")
                daemon.kill()
                daemon.start()
                assert waits(other, "waiters")
                other.put("b", np.ones(1))

        for waiting in (
            lambda: store.get("b", timeout=30)[0],
            lambda: len(store.wait(["a", "b"], 2, 30)[0]),
        ):
            thread = threading.Thread(target=come_back_and_put)
            thread.start()
            assert waiting() in (1, 2)
            thread.join()
            store.remove("b")


def test_waits_in_other_threads_end_in_time_as_well(store):
    found = []
    thread = threading.Thread(target=lambda: found.append(store.wait(["never"], timeout=0.05)))
    thread.start()
    thread.join(20)
    assert found == [([], ["never"])]
    assert eventually(lambda: store.status()["waiters"] == 0)
