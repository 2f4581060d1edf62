# SPDX-License-Identifier: Apache-2.0
"""get_async: futures of asyncio, and of concurrent.futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import threading

import numpy as np
import pytest

import forebay
from support import PATIENCE, Other, eventually, pins, waits


def threads_of_gets() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "forebay gets"]


async def quietly(future) -> object:
    """The exception of a future, or its value."""
    try:
        return await asyncio.wait_for(future, PATIENCE)
    except forebay.ForebayError as error:
        return error


class TestAsyncio:
    def test_what_is_there_needs_no_waiting(self, store):
        ref = store.put("a", np.arange(3))
        store.get("a")  # the first get of a process may ask for room to count its pins

        async def main():
            future = store.get_async("a")
            assert isinstance(future, asyncio.Future)
            assert future.done()
            assert (await future).sum() == 3
            assert (await store.get_async(ref)).sum() == 3
            assert (await store.get_async("a", 1)).sum() == 3

        sessions = store.status()["sessions"]
        asyncio.run(main())
        assert store.status()["sessions"] == sessions

    def test_what_comes_later_is_waited_for(self, store):
        async def main():
            futures = [store.get_async(name) for name in ("a", "b", "a")]
            assert not any(future.done() for future in futures)
            assert store.status()["waiters"] == 3
            with Other(store, "store.put_many({'a': np.ones(1), 'b': np.full(1, 2)})"):
                found = await asyncio.wait_for(asyncio.gather(*futures), PATIENCE)
            assert [one[0] for one in found] == [1, 2, 1]
            assert not found[0].flags.writeable

        asyncio.run(main())

    def test_others_run_meanwhile(self, store):
        async def main():
            waiting = asyncio.ensure_future(store.get_async("a"))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not waiting.done()
            store.put("a", np.zeros(1))
            await asyncio.wait_for(waiting, PATIENCE)

        asyncio.run(main())

    def test_only_a_version_after_one_that_is_known(self, store):
        async def main():
            store.put("a", np.zeros(1))
            assert (await store.get_async("a", after=0))[0] == 0
            future = store.get_async("a", after=1)
            assert not future.done()
            store.put("a", np.ones(1))
            assert (await asyncio.wait_for(future, PATIENCE))[0] == 1
            assert (await store.get_async("a", after=1))[0] == 1

        asyncio.run(main())

    def test_an_exact_version(self, store):
        async def main():
            store.put("a", np.zeros(1))
            future = store.get_async("a", version=2)
            store.put("a", np.ones(1))
            assert (await asyncio.wait_for(future, PATIENCE))[0] == 1

        asyncio.run(main())

    def test_groups_and_manifests_are_what_get_makes_of_them(self, store):
        async def main():
            group = store.get_async("g")
            manifest = store.get_async("m")
            ref = store.put("g", {"x": np.arange(3)})
            store.put_manifest("m", [ref])
            assert (await asyncio.wait_for(group, PATIENCE))["x"].sum() == 3
            assert (await asyncio.wait_for(manifest, PATIENCE))[0]["x"].sum() == 3

        asyncio.run(main())

    def test_failures_come_through_the_future(self, store, daemon):
        stale = store.put("gone", np.zeros(1))
        store.remove("gone")
        with daemon.connect() as other:
            foreign = other.put("a", np.zeros(1))

        async def main():
            assert type(await quietly(store.get_async("a", timeout=0))) is forebay.NotFound
            error = await quietly(store.get_async("a", timeout=0.02))
            assert type(error) is forebay.Timeout
            assert "'a' within 20 ms" in str(error)
            assert type(await quietly(store.get_async(stale))) is forebay.StaleRef
            store.put("gone", np.zeros(1), version=1)
            assert type(await quietly(store.get_async(stale))) is forebay.StaleRef
            assert type(await quietly(store.get_async(foreign))) is forebay.WrongStore

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("arguments", "keywords", "error"),
        [
            (("",), {}, forebay.BadId),
            ((5,), {}, TypeError),
            (("a", 0), {}, forebay.BadArgument),
            (("a", "x"), {}, TypeError),
            (("a",), {"timeout": -1}, forebay.BadArgument),
            (("a",), {"timeout": float("inf")}, forebay.BadArgument),
            (("a", 1), {"after": 1}, forebay.BadArgument),
            (("a",), {"after": -1}, OverflowError),
            (("a",), {"after": "x"}, TypeError),
        ],
    )
    @pytest.mark.parametrize("concurrently", [False, True])
    def test_bad_arguments_are_refused_at_once(
        self, store, arguments, keywords, error, concurrently
    ):
        async def main():
            with pytest.raises(error):
                store.get_async(*arguments, **keywords, concurrent=concurrently)

        asyncio.run(main())

    def test_without_a_loop_it_says_so_as_asyncio_does(self, store):
        with pytest.raises(RuntimeError, match="no running event loop"):
            store.get_async("a")

    def test_cancelling_the_future_ends_the_wait(self, store):
        async def main():
            future = store.get_async("a")
            assert store.status()["waiters"] == 1
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
            assert await asyncio.to_thread(waits, store, "waiters", 0)
            store.put("a", np.zeros(1))
            assert (await store.get_async("a")).size == 1

        asyncio.run(main())

    def test_cancelling_the_task_is_what_asyncio_makes_of_it(self, store):
        async def wait() -> None:
            await store.get_async("a")

        async def main():
            task = asyncio.create_task(wait())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(store.get_async("a"), 0.02)
            assert await asyncio.to_thread(waits, store, "waiters", 0)

        asyncio.run(main())

    def test_one_cancelled_of_many_leaves_the_others(self, store):
        async def main():
            futures = [store.get_async("a") for _ in range(5)]
            futures[2].cancel()
            await asyncio.sleep(0)
            store.put("a", np.zeros(1))
            done, _ = await asyncio.wait(futures, timeout=PATIENCE)
            assert len(done) == 5
            assert [future.cancelled() for future in futures] == [False, False, True, False, False]

        asyncio.run(main())

    def test_a_loop_that_ends_leaves_no_wait_and_no_connection(self, store):
        sessions = store.status()["sessions"]

        async def main():
            left_behind.append(store.get_async("a"))

        left_behind = []
        asyncio.run(main())
        left_behind.clear()
        gc.collect()
        assert waits(store, "waiters", 0)
        assert waits(store, "sessions", sessions)

        async def again():
            future = store.get_async("a")
            store.put("a", np.zeros(1))
            return (await asyncio.wait_for(future, PATIENCE)).size

        assert asyncio.run(again()) == 1

    def test_one_connection_for_all_gets_of_a_loop_and_none_when_idle(self, store):
        sessions = store.status()["sessions"]

        async def main():
            futures = [store.get_async(f"a{i}") for i in range(20)]
            assert store.status()["sessions"] == sessions + 1
            store.put_many({f"a{i}": np.zeros(1) for i in range(20)})
            await asyncio.wait(futures, timeout=PATIENCE)
            while store.status()["sessions"] != sessions:
                await asyncio.sleep(0.01)

        asyncio.run(asyncio.wait_for(main(), PATIENCE))

    def test_each_loop_has_its_own(self, store):
        def in_a_loop_of_its_own(_):
            async def main():
                return (await asyncio.wait_for(store.get_async("a"), PATIENCE))[0]

            return asyncio.run(main())

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = pool.map(in_a_loop_of_its_own, range(4))
            assert waits(store, "waiters", 4)
            store.put("a", np.full(1, 7))
            assert list(results) == [7] * 4

    def test_closing_the_store_ends_them(self, shared_daemon):
        async def main():
            store = shared_daemon.connect()
            future = store.get_async("never")
            store.close()
            assert type(await quietly(future)) is forebay.BadState
            assert type(await quietly(store.get_async("never"))) is forebay.BadState

        asyncio.run(main())

    def test_they_survive_the_daemon(self, daemon):
        async def main():
            with daemon.connect() as store:
                future = store.get_async("a")
                await asyncio.to_thread(daemon.kill)
                await asyncio.to_thread(daemon.start)
                await asyncio.to_thread(waits, store, "waiters", 1)
                store.put("a", np.ones(1))
                assert (await asyncio.wait_for(future, PATIENCE))[0] == 1

        asyncio.run(main())

    def test_the_array_pins_and_the_future_lets_go(self, store):
        async def main():
            future = store.get_async("a")
            store.put("a", np.zeros(1))
            array = await asyncio.wait_for(future, PATIENCE)
            del future
            assert pins(store, "a") == 1
            del array
            assert pins(store, "a") == 0

        asyncio.run(main())


class TestConcurrent:
    def test_what_is_there_needs_no_thread(self, store):
        store.put("a", np.arange(3))
        store.get("a")
        future = store.get_async("a", concurrent=True)
        assert isinstance(future, concurrent.futures.Future)
        assert future.done()
        assert future.result().sum() == 3

    def test_one_thread_waits_for_all_of_a_store_and_ends_when_idle(self, store):
        assert eventually(lambda: threads_of_gets() == [])
        futures = [store.get_async(f"a{i}", concurrent=True) for i in range(10)]
        assert len(threads_of_gets()) == 1
        assert all(thread.daemon for thread in threads_of_gets())
        assert waits(store, "waiters", 10)
        store.put_many({f"a{i}": np.full(1, i) for i in range(10)})
        assert [future.result(PATIENCE)[0] for future in futures] == list(range(10))
        assert eventually(lambda: threads_of_gets() == [])
        again = store.get_async("again", concurrent=True)
        store.put("again", np.zeros(1))
        assert again.result(PATIENCE).size == 1

    def test_with_the_tools_of_concurrent_futures(self, store):
        futures = [store.get_async(name, concurrent=True) for name in ("a", "b", "c")]
        store.put("b", np.zeros(1))
        done, open_ = concurrent.futures.wait(
            futures, PATIENCE, concurrent.futures.FIRST_COMPLETED
        )
        assert done == {futures[1]}
        futures[0].cancel()
        store.put("c", np.zeros(1))
        assert set(concurrent.futures.as_completed(open_, PATIENCE)) == open_

    def test_cancelling_ends_the_wait(self, store):
        future = store.get_async("a", concurrent=True)
        assert waits(store, "waiters")
        assert future.cancel()
        assert future.cancelled()
        assert waits(store, "waiters", 0)
        done, _ = concurrent.futures.wait([future], PATIENCE)
        assert done == {future}
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()

    def test_cancelling_at_once_and_too_late(self, store):
        for _ in range(50):
            assert store.get_async("a", concurrent=True).cancel()
        assert waits(store, "waiters", 0)
        store.put("a", np.zeros(1))
        future = store.get_async("a", concurrent=True)
        future.result(PATIENCE)
        assert not future.cancel()
        assert future.result().size == 1

    def test_failures_come_through_the_future(self, store):
        stale = store.put("gone", np.zeros(1))
        store.remove("gone")

        def error_of(*arguments, **keywords):
            return type(store.get_async(*arguments, **keywords, concurrent=True).exception(PATIENCE))

        assert error_of("a", timeout=0) is forebay.NotFound
        assert error_of("a", timeout=0.02) is forebay.Timeout
        assert error_of(stale) is forebay.StaleRef

    def test_closing_the_store_ends_them(self, shared_daemon):
        store = shared_daemon.connect()
        future = store.get_async("never", concurrent=True)
        assert waits(store, "waiters")
        store.close()
        assert type(future.exception(PATIENCE)) is forebay.BadState
        assert type(store.get_async("a", concurrent=True).exception(PATIENCE)) is forebay.BadState

    def test_a_callback_may_ask_for_more(self, store):
        store.put("b", np.zeros(1))
        chained: concurrent.futures.Future = concurrent.futures.Future()

        def more(future):
            chained.set_result(store.get_async("c", concurrent=True))

        store.get_async("a", concurrent=True).add_done_callback(more)
        store.put("a", np.zeros(1))
        inner = chained.result(PATIENCE)
        store.put("c", np.full(1, 3))
        assert inner.result(PATIENCE)[0] == 3

    def test_many_threads_may_ask(self, store):
        def ask(i):
            return store.get_async(f"a{i % 7}", concurrent=True).result(PATIENCE)[0]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = [pool.submit(ask, i) for i in range(56)]
            store.put_many({f"a{i}": np.full(1, i) for i in range(7)})
            assert [one.result(PATIENCE) for one in found] == [i % 7 for i in range(56)]

    def test_an_interpreter_ends_while_they_are_open(self, store):
        script = """
            futures = [store.get_async("never", concurrent=True) for _ in range(3)]
            say("open")
        """
        with Other(store, script) as other:
            assert other.hear() == "open"
            assert other.join() == 0


class TestFork:
    def test_a_child_has_none_of_its_parents_waits_and_may_have_its_own(self, store):
        theirs = store.get_async("a", concurrent=True)
        assert waits(store, "waiters")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                mine = store.get_async("b", concurrent=True)
                os.write(write, b"x")
                status = 0 if mine.result(PATIENCE)[0] == 2 and not theirs.done() else 2
            finally:
                os._exit(status)
        os.read(read, 1)
        assert waits(store, "waiters", 2)
        store.put("b", np.full(1, 2))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        os.close(read)
        os.close(write)
        assert waits(store, "waiters", 1)
        store.put("a", np.full(1, 1))
        assert theirs.result(PATIENCE)[0] == 1

    def test_a_child_of_a_running_loop_leaves_its_parents_waits_alone(self, store):
        async def main():
            theirs = store.get_async("a")
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    # This loop is the parent's.
                    gc.collect()
                    future = store.get_async("b", concurrent=True)
                    store.put("b", np.zeros(1))
                    status = 0 if future.result(PATIENCE).size == 1 else 2
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            store.put("a", np.ones(1))
            assert (await asyncio.wait_for(theirs, PATIENCE))[0] == 1

        asyncio.run(main())
