# SPDX-License-Identifier: Apache-2.0
"""Scopes: what is put inside goes at the end, however the end comes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import forebay
from support import Other, eventually, pins, run

LARGE = 100_000


@pytest.fixture(autouse=True)
def found(store, monkeypatch):
    monkeypatch.setenv("FOREBAY_SOCKET", store.address)


def ids(store) -> list:
    return [info.id for info in store.list()]


class TestInside:
    def test_what_is_put_goes_at_the_end_and_nothing_else_does(self, store):
        store.put("outside", np.zeros(3))
        with forebay.scope(store) as scope:
            ref = scope.put("inside", np.zeros(LARGE))
            scope.put("object", ["any", np.zeros(LARGE)])
            store.put("beside", np.zeros(3))
            assert ref.id.startswith(scope.prefix)
            assert scope.get("inside").sum() == 0
            assert scope.get("object")[0] == "any"
            assert store.get(ref).sum() == 0
        assert ids(store) == ["beside", "outside"]
        with pytest.raises(forebay.NotFound):
            store.get(ref)

    def test_without_an_argument_it_is_in_the_store_that_connect_finds(self, store):
        with forebay.scope() as scope:
            scope.put("a", np.zeros(3))
            assert ids(store) == [scope.id("a")]
        assert ids(store) == []

    def test_what_is_shared_meanwhile_goes_too(self, store):
        original = np.arange(float(LARGE))
        with forebay.scope() as scope:
            shared = forebay.share(original)
            [name] = ids(store)
            assert name.startswith(scope.prefix)
            pickled = pickle.dumps(shared)
            assert pickle.loads(pickled).sum() == shared.sum()
        assert ids(store) == []
        with pytest.raises(forebay.StaleRef):
            pickle.loads(pickled)
        assert np.array_equal(shared, original)

    def test_an_array_that_was_shared_in_a_former_scope_is_put_anew(self, store):
        original = np.arange(float(LARGE))
        for _ in range(3):
            with forebay.scope():
                shared = forebay.share(original)
                assert len(ids(store)) == 1
                assert np.array_equal(pickle.loads(pickle.dumps(shared)), original)
                del shared
        assert ids(store) == []

    def test_one_that_is_still_pinned_from_a_former_scope(self, store):
        original = np.arange(float(LARGE))
        with forebay.scope():
            first = forebay.share(original)
        with forebay.scope():
            second = forebay.share(original)
            assert np.array_equal(pickle.loads(pickle.dumps(second)), original)
        assert np.array_equal(first, second)

    def test_what_threads_share_meanwhile_goes_too(self, store):
        with forebay.scope() as scope:
            thread = threading.Thread(target=lambda: forebay.share(np.zeros(LARGE)))
            thread.start()
            thread.join(30)
            assert [i.startswith(scope.prefix) for i in ids(store)] == [True]

    def test_a_named_segment_stays(self, store):
        with forebay.scope():
            forebay.share(np.zeros(1000), "named", 1)
        assert ids(store) == ["named"]

    def test_all_verbs_have_the_prefix(self, store):
        with forebay.scope(store) as scope:
            with scope.create("made", 5) as array:
                array[:] = 1
            with scope.update("made") as array:
                array += 1
            del array
            assert scope.get("made").tolist() == [2] * 5
            assert scope.get_or_create("loaded", lambda: np.ones(3)).sum() == 3
            assert set(ids(store)) == {scope.id("made"), scope.id("loaded")}
            assert scope.remove("loaded") == 1
            assert ids(store) == [scope.id("made")] * 2
            assert scope.new_id("x") != scope.new_id("x")
            assert "x" in scope.new_id("x")
        assert ids(store) == []

    def test_get_many_by_refs_of_it(self, store):
        with forebay.scope(store) as scope:
            refs = [scope.put(f"{i}", np.full(5, i)) for i in range(5)]
            assert [a[0] for a in store.get_many(refs)] == [0, 1, 2, 3, 4]

    def test_end_counts_and_may_come_early_and_twice(self, store):
        with forebay.scope(store) as scope:
            scope.put("a", np.zeros(3))
            scope.put("b", np.zeros(3))
            assert scope.end() == 2
            assert ids(store) == []
            assert scope.end() == 0
        with forebay.scope(store) as after:
            after.put("a", np.zeros(3))
            assert len(ids(store)) == 1


class TestTheEnd:
    def test_it_comes_when_the_block_raises(self, store):
        with pytest.raises(RuntimeError, match="mine"):
            with forebay.scope(store) as scope:
                scope.put("a", np.zeros(3))
                raise RuntimeError("mine")
        assert ids(store) == []

    def test_arrays_that_are_in_use_stay_valid_and_their_memory_goes_later(self, store):
        used = store.status()["used_bytes"]
        with forebay.scope(store) as scope:
            scope.put("a", np.full(LARGE, 3.0))
            array = scope.get("a")
        for i in range(10):
            store.put(f"other {i}", np.zeros(LARGE))
        assert (array == 3).all()
        store.remove_prefix("other")
        del array
        gc.collect()
        assert eventually(lambda: store.status()["used_bytes"] <= used)

    def test_what_is_held_goes_as_well(self, store):
        with forebay.scope(store) as scope:
            store.hold(scope.put("a", np.zeros(3)))
            store.persist(scope.put("b", np.zeros(3)))
        assert ids(store) == []

    def test_one_within_another(self, store):
        with forebay.scope() as outer:
            first = forebay.share(np.zeros(LARGE))
            with forebay.scope() as inner:
                second = forebay.share(np.ones(LARGE))
                assert {i.startswith(inner.prefix) for i in ids(store)} == {True, False}
            assert len(ids(store)) == 1
            assert pickle.loads(pickle.dumps(first)).sum() == 0
            assert second.sum() == LARGE
            third = forebay.share(np.ones(LARGE))
            assert all(i.startswith(outer.prefix) for i in ids(store))
            del third
        assert ids(store) == []

    def test_what_the_outer_one_shared_is_used_in_the_inner_one_and_stays(self, store):
        original = np.arange(float(LARGE))
        with forebay.scope():
            pickled = pickle.dumps(forebay.share(original))
            with forebay.scope():
                forebay.share(original)
            assert np.array_equal(pickle.loads(pickled), original)

    def test_two_scopes_in_two_threads(self, store):
        def body(number):
            with forebay.scope(store) as scope:
                for i in range(10):
                    scope.put(f"{i}", np.full(10, number))
                barrier.wait(30)
                if any(scope.get(f"{i}")[0] != number for i in range(10)):
                    wrong.append(number)
                if number == 0:
                    scope.end()
                barrier.wait(30)
                if number and scope.get("5")[0] != number:
                    wrong.append(number)

        barrier = threading.Barrier(3)
        wrong: list[int] = []
        threads = [threading.Thread(target=body, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not wrong
        assert not barrier.broken
        assert ids(store) == []

    def test_other_processes_may_put_into_it(self, store):
        with forebay.scope(store) as scope:
            run(
                """
                import sys, numpy as np, forebay
                forebay.connect(sys.argv[1]).put(sys.argv[2] + "theirs", np.ones(1000))
                """,
                store.address,
                scope.prefix,
            )
            assert scope.get("theirs").sum() == 1000
        assert ids(store) == []


SCOPE = """
block = forebay.scope(store)
scope = block.__enter__()
scope.put("a", np.zeros(100000))
shared = forebay.share(np.ones(100000), store=store)
say(scope.prefix)
hear()
"""


class TestTheEndOfTheProcess:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
    def test_a_killed_process_takes_its_scope_with_it(self, store, number):
        store.put("other", np.zeros(3))
        with Other(store, SCOPE) as other:
            prefix = other.hear()
            assert len(ids(store)) == 3
            assert sum(i.startswith(prefix) for i in ids(store)) == 2
            other.process.send_signal(number)
            assert eventually(lambda: ids(store) == ["other"])
            assert other.join() == -number

    def test_its_arrays_stay_valid_for_others(self, store):
        with Other(store, SCOPE) as other:
            prefix = other.hear()
            array = store.get(prefix + "a")
            other.kill()
            assert eventually(lambda: ids(store) == [])
            assert array.sum() == 0

    def test_sys_exit_and_exceptions(self, store):
        for ending in "sys.exit(3)", "raise RuntimeError", "import os; os._exit(3)":
            run(
                f"""
                import sys, numpy as np, forebay
                store = forebay.connect(sys.argv[1])
                with forebay.scope(store) as scope:
                    scope.put("a", np.zeros(100000))
                    {ending}
                """,
                store.address,
                status=None,
            )
            assert eventually(lambda: ids(store) == [])

    def test_without_a_scope_what_was_shared_goes_with_its_process(self, store):
        run(
            """
            import numpy as np, forebay
            shared = forebay.share(np.ones(100000))
            """
        )
        assert eventually(lambda: ids(store) == [])

    def test_it_goes_though_the_daemon_was_killed_meanwhile(self, daemon):
        store = daemon.connect()
        store.put("other", np.zeros(3))
        with Other(store, SCOPE) as other:
            other.hear()
            daemon.kill()
            other.kill()
            daemon.start()
            again = daemon.connect()
            assert eventually(lambda: ids(again) == ["other"])

    def test_a_daemon_that_was_started_anew_ends_it_for_who_lives(self, daemon):
        with daemon.connect() as store:
            with forebay.scope(store) as scope:
                scope.put("a", np.zeros(1000))
                daemon.kill()
                daemon.start()
                assert scope.get("a").sum() == 0
                scope.put("b", np.zeros(1000))
                assert len(ids(store)) == 2
            assert ids(store) == []


class TestFork:
    def test_a_forked_child_that_ends_leaves_the_scope_to_its_parent(self, store):
        context = multiprocessing.get_context("fork")
        with forebay.scope(store) as scope:
            scope.put("a", np.zeros(1000))
            for body in put_and_end, exit_with_the_scope:
                child = context.Process(target=body, args=(scope, store))
                child.start()
                child.join(30)
                assert scope.get("a").sum() == 0, body
        assert ids(store) == []

    def test_a_killed_child_leaves_the_scope_to_its_parent(self, store):
        with forebay.scope(store) as scope:
            scope.put("a", np.zeros(1000))
            child = os.fork()
            if child == 0:
                try:
                    scope.put("from the child", np.ones(1000))
                finally:
                    os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
            assert scope.get("from the child").sum() == 1000
            assert scope.get("a").sum() == 0
        assert ids(store) == []

    def test_a_child_outlives_the_scope_of_its_parent(self, store):
        with Other(
            store,
            """
            import os
            with forebay.scope(store) as scope:
                scope.put("a", np.full(100000, 3.0))
                array = scope.get("a")
                child = os.fork()
                if child == 0:
                    hear()
                    say((array == 3).all())
                    os._exit(0)
            say("ended")
            os.waitpid(child, 0)
            """,
        ) as other:
            assert other.hear() == "ended"
            assert ids(store) == []
            other.tell()
            assert other.hear() == "True"
            assert other.join() == 0


def put_and_end(scope, store):
    scope.put("b", np.zeros(3))


def exit_with_the_scope(scope, store):
    with forebay.scope(store) as mine:
        mine.put("c", np.zeros(3))
    os._exit(0)


def test_pins_of_nothing_are_left(store):
    with forebay.scope(store) as scope:
        scope.put("a", np.zeros(LARGE))
        array = scope.get("a")
        assert pins(store, scope.id("a")) == 1
        del array
        assert pins(store, scope.id("a")) == 0


def test_a_forked_child_that_leaves_the_block_ends_nothing(daemon):
    script = """
import os, forebay
with forebay.scope() as scope:
    scope.put("a", [1])
    pid = os.fork()
    if pid != 0:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print(scope.get("a"))
if pid == 0:
    os._exit(0)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FOREBAY_SOCKET": daemon.socket},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "[1]\n", ran.stderr
