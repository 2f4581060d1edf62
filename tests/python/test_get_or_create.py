# SPDX-License-Identifier: Apache-2.0
"""get_or_create: one makes it, and the others wait for that."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

import forebay
from support import PATIENCE, Other, pins, waits


def never():
    raise AssertionError("nobody should have called this")


class TestLoader:
    def test_it_is_called_once_and_its_array_is_put(self, store):
        calls = []

        def load():
            calls.append(1)
            return np.arange(6.0).reshape(2, 3)

        made = store.get_or_create("a", load)
        assert made.shape == (2, 3)
        assert not made.flags.writeable
        assert (store.get("a") == made).all()
        assert np.shares_memory(store.get_or_create("a", load), made)
        assert calls == [1]

    def test_what_is_there_needs_none(self, store):
        store.put("a", np.full(1, 5))
        assert store.get_or_create("a", never)[0] == 5

    @pytest.mark.parametrize(
        "made", [np.arange(20)[::3], np.asfortranarray(np.ones((3, 4))), np.zeros(0), np.float64(3)[...],
                 b"bytes", np.arange(100_000.0)[::2]],
    )  # fmt: skip
    def test_whatever_put_takes(self, store, made):
        found = store.get_or_create("a", lambda: made)
        assert (found == np.asarray(made if not isinstance(made, bytes) else list(made))).all()
        assert (store.get("a") == found).all()

    def test_a_group(self, store):
        made = store.get_or_create("g", lambda: {"x": np.arange(3), "y": np.ones((2, 2))})
        assert made["x"].sum() == 3
        assert store.get("g")["y"].shape == (2, 2)

    def test_the_newest_or_an_exact_version(self, store):
        assert store.get_or_create("a", lambda: np.full(1, 7), version=5)[0] == 7
        assert store.get_or_create("a", never)[0] == 7
        assert store.get_or_create("a", lambda: np.full(1, 3), 3)[0] == 3
        assert [segment.version for segment in store.list("a")] == [3, 5]

    def test_an_evicted_one_is_made_again(self, store):
        def load():
            return np.zeros(3_000_000)

        store.get_or_create("evicted", load, evictable=True)
        for i in range(50):
            if "evicted" not in store:
                break
            store.put(f"e{i}", load(), evictable=True)
        with pytest.raises(forebay.Evicted):
            store.get("evicted")
        assert store.get_or_create("evicted", load, evictable=True).size == 3_000_000

    def test_the_options_are_those_of_put(self, store):
        store.get_or_create("a", lambda: np.zeros(1), evictable=True, keep=3, ttl=1000)
        stat = store.stat("a")
        assert stat.info.evictable
        assert stat.keep == 3
        assert 900 < stat.expires_in <= 1000
        store.get_or_create("b", lambda: np.zeros(1), persistent=True)
        assert store.stat("b").info.persistent

    def test_its_array_is_pinned_from_the_first_moment(self, store):
        made = store.get_or_create("a", lambda: np.zeros(1))
        assert pins(store, "a") == 1
        del made
        assert pins(store, "a") == 0

    @pytest.mark.parametrize(
        ("arguments", "keywords", "error"),
        [
            (("a",), {}, TypeError),
            (("a", 5), {}, TypeError),
            (("a", None), {}, TypeError),
            (("", never), {}, forebay.BadId),
            ((5, never), {}, TypeError),
            (("a", never, 0), {}, forebay.BadArgument),
            (("a", never, "x"), {}, TypeError),
            (("a", never, None, -1), {}, forebay.BadArgument),
            (("a", never, None, float("nan")), {}, forebay.BadArgument),
            (("a", never), {"exist_ok": True}, TypeError),
            (("a", never), {"evictable": "yes"}, TypeError),
        ],
    )
    def test_bad_arguments_are_refused(self, store, arguments, keywords, error):
        with pytest.raises(error):
            store.get_or_create(*arguments, **keywords)
        assert store.status()["creating"] == 0

    def test_arguments_are_checked_even_if_it_is_there(self, store):
        store.put("a", np.zeros(1))
        with pytest.raises(TypeError, match="loader"):
            store.get_or_create("a", None)


class TestFailure:
    def test_its_exception_comes_out_unchanged_and_the_next_may_try(self, store):
        class Special(Exception):
            pass

        error = Special("why")

        def load():
            raise error

        for _ in range(2):
            with pytest.raises(Special) as caught:
                store.get_or_create("a", load)
            assert caught.value is error
        assert store.get_or_create("a", lambda: np.full(1, 5))[0] == 5

    @pytest.mark.parametrize("made", [None, [1, 2], "text", {"a": 1}, [np.arange(100_000), "b"]])
    def test_any_object(self, store, made):
        first = store.get_or_create("a", lambda: made)
        again = store.get_or_create("a", never)
        assert repr(first) == repr(again) == repr(made)

    def test_what_cannot_be_put_is_a_failure(self, store):
        with pytest.raises(forebay.Unstorable, match="generator"):
            store.get_or_create("a", lambda: (i for i in range(3)))
        assert "a" not in store
        assert store.status()["creating"] == 0

    def test_a_full_store_is_one(self, store):
        with pytest.raises(forebay.TooLarge):
            store.get_or_create("a", lambda: np.zeros(40_000_000))
        assert store.get_or_create("a", lambda: np.zeros(1)).size == 1

    @pytest.mark.parametrize(
        ("does", "told"),
        [
            ("raise ValueError('no such file: x')", "ValueError: no such file: x"),
            ("raise KeyError", "KeyError"),
            ("raise ValueError('\\\\ud800 \\xe4')", "ValueError: \\ud800 ä"),
            ("raise forebay.NotFound('elsewhere')", "NotFound: elsewhere"),
            ("return (i for i in range(3))", "Unstorable: a builtins.generator cannot be stored"),
            ("return np.zeros(40_000_000)", "TooLarge: "),
        ],
    )
    def test_those_who_wait_in_other_processes_are_told_why(self, store, does, told):
        script = f"""
            def load():
                say("loading"); hear()
                {does}
            try:
                store.get_or_create("a", load)
            except Exception as error:
                say(type(error).__name__)
        """
        with Other(store, script) as other:
            assert other.hear() == "loading"
            caught = []

            def wait():
                with pytest.raises(forebay.LoaderFailed) as raised:
                    store.get_or_create("a", never)
                caught.append(raised.value)

            thread = threading.Thread(target=wait)
            thread.start()
            assert waits(store, "waiting_claims")
            other.tell()
            thread.join(PATIENCE)
            assert told in str(caught[0])
            assert isinstance(caught[0], RuntimeError)
            other.hear()

    def test_a_loader_that_is_told_to_end_gives_the_claim_up(self, store, shared_daemon):
        begun = threading.Event()
        end = threading.Event()

        def load():
            begun.set()
            end.wait()
            raise KeyboardInterrupt

        def ask():
            with shared_daemon.connect() as other, pytest.raises(KeyboardInterrupt):
                other.get_or_create("a", load)

        thread = threading.Thread(target=ask)
        thread.start()
        begun.wait()
        waiting = threading.Timer(0, lambda: made.append(store.get_or_create("a", lambda: b"mine")))
        made: list = []
        waiting.start()
        assert waits(store, "waiting_claims")
        end.set()
        waiting.join(PATIENCE)
        thread.join(PATIENCE)
        assert bytes(made[0]) == b"mine"


class TestSeveralProcesses:
    def test_one_loads_and_all_get_it(self, store):
        script = """
            def load():
                say("loading"); hear()
                return np.full(50_000, 3.0)
            say("ready"); hear()
            say("got", store.get_or_create("a", load).sum())
        """
        others = [Other(store, script) for _ in range(5)]
        try:
            for other in others:
                assert other.hear() == "ready"
                other.tell()
            assert waits(store, "waiting_claims", 4)
            for other in others:
                other.tell()  # the one that loads hears it; to the others it is nothing
            said = [other.hear() for other in others]
            assert said.count("loading") == 1
            assert said.count("got 150000.0") == 4
            assert others[said.index("loading")].hear() == "got 150000.0"
        finally:
            for other in others:
                other.__exit__()
        assert [segment.version for segment in store.list("a")] == [1]

    def test_when_the_loading_process_is_killed_the_next_one_loads(self, store):
        script = """
            def load():
                say("loading"); hear()
                return np.zeros(1)
            store.get_or_create("a", load)
        """
        with Other(store, script) as first:
            assert first.hear() == "loading"
            with Other(store, script) as second:
                assert waits(store, "waiting_claims")
                first.kill()
                assert second.hear() == "loading"
                second.tell()
                assert second.join() == 0
        assert store.get("a").size == 1

    def test_a_waiter_that_is_killed_is_not_given_the_claim(self, store):
        script = "store.get_or_create('a', lambda: (say('loading'), hear(), 1 / 0))"
        with Other(store, script) as loading:
            assert loading.hear() == "loading"
            with Other(store, script) as waiting:
                assert waits(store, "waiting_claims")
                waiting.kill()
                assert waits(store, "waiting_claims", 0)
            loading.kill()
            assert store.get_or_create("a", lambda: np.full(1, 4), timeout=PATIENCE)[0] == 4

    def test_whoever_waits_for_too_long_is_told_who_makes_it(self, store):
        script = "store.get_or_create('a', lambda: (say('loading'), hear(), np.zeros(1))[2])"
        with Other(store, script) as other:
            assert other.hear() == "loading"
            for timeout in (0, 0.02, 0.25):
                with pytest.raises(forebay.Timeout, match="'a'"):
                    store.get_or_create("a", never, timeout=timeout)
            with pytest.raises(forebay.Conflict):
                store.put("a", np.zeros(1), version=1)
            other.tell()
            assert store.get_or_create("a", never, timeout=PATIENCE).size == 1
            assert other.join() == 0

    def test_a_get_that_waits_gets_it_too(self, store):
        script = "say(store.get('a', timeout=20)[0])"
        with Other(store, script) as other:
            assert waits(store, "waiters")
            store.get_or_create("a", lambda: np.full(1, 5))
            assert other.hear() == "5"

    def test_a_forked_child_asks_for_itself(self, store):
        def load():
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    store.get_or_create("a", never, timeout=0)
                except forebay.Timeout:
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            return np.full(1, 6)

        assert store.get_or_create("a", load)[0] == 6


def test_a_claim_survives_the_daemon(daemon):
    with daemon.connect() as store:

        def load():
            daemon.kill()
            daemon.start()
            return np.full(3, 2)

        assert store.get_or_create("a", load).sum() == 6
        assert store.get("a").sum() == 6
