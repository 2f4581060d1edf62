# SPDX-License-Identifier: Apache-2.0
"""Subscriptions: what happens to segments, in order."""

from __future__ import annotations

import asyncio
import os
import threading

import numpy as np
import pytest

import forebay
from support import PATIENCE, Other, waits


def take(events, count: int) -> list[tuple]:
    found = [events.next(PATIENCE) for _ in range(count)]
    return [(event.kind, event.id, event.version) for event in found]


class TestEvents:
    def test_what_happens_from_now_on_in_order(self, store):
        store.put("before", np.zeros(1))
        with store.subscribe() as events:
            ref = store.put("a", np.zeros(3))
            store.put(b"\xff", np.zeros(1))
            store.remove("a")
            sealed = events.next(PATIENCE)
            assert (sealed.kind, sealed.cause, sealed.id) == ("sealed", None, "a")
            assert (sealed.version, sealed.serial, sealed.size) == (1, ref.serial, 24)
            assert sealed.missed == 0
            assert events.next(PATIENCE).id == b"\xff"
            removed = events.next(PATIENCE)
            assert (removed.kind, removed.cause, removed.id) == ("removed", "removed", "a")
            assert removed.serial == ref.serial

    def test_of_a_prefix(self, store):
        with store.subscribe("a/") as events:
            for name in ("a/1", "b", "a", "a/2"):
                store.put(name, np.zeros(1))
            assert take(events, 2) == [("sealed", "a/1", 1), ("sealed", "a/2", 1)]
            with pytest.raises(forebay.Timeout):
                events.next(0)
        with store.subscribe(b"a/") as events:
            store.put("a/3", np.zeros(1))
            assert take(events, 1) == [("sealed", "a/3", 1)]

    def test_why_something_was_removed(self, store):
        with store.subscribe() as events:
            store.put("k", np.zeros(1), keep=1)
            store.put("k", np.zeros(1))
            store.update("k", take=True).seal()
            for i in range(8):
                store.put(f"e{i}", np.zeros(3_000_000), evictable=True)
            causes = set()
            while causes != {"kept_newer", "superseded", "evicted"}:
                causes.add(events.next(PATIENCE).cause)
                causes.discard(None)

    def test_several_subscribers_see_the_same(self, store, shared_daemon):
        with shared_daemon.connect() as other:
            with store.subscribe() as first, other.subscribe() as second:
                store.put("a", np.zeros(1))
                mine, theirs = first.next(PATIENCE), second.next(PATIENCE)
        assert mine == theirs
        assert hash(mine) == hash(theirs)

    def test_events_are_equal_by_value_and_have_a_repr(self, store):
        with store.subscribe() as events:
            store.put("a", np.zeros(1), keep=1)
            store.put("a", np.zeros(1))
            sealed, sealed_again, removed = (events.next(PATIENCE) for _ in range(3))
        assert sealed != sealed_again
        assert sealed != "something else"
        assert repr(sealed) == f"<forebay.Event sealed 'a'@1#{sealed.serial}>"
        assert repr(removed) == f"<forebay.Event removed 'a'@1#{sealed.serial} (kept_newer)>"

    def test_what_others_do(self, store):
        with store.subscribe() as events, Other(store, "hear(); store.put('a', b'x')") as other:
            other.tell()
            assert take(events, 1) == [("sealed", "a", 1)]


class TestNext:
    def test_it_waits_until_the_deadline(self, store):
        with store.subscribe("nothing") as events:
            with pytest.raises(forebay.Timeout, match="'nothing' within 150 ms"):
                events.next(timeout=0.15)
            with pytest.raises(TimeoutError):
                events.next(0)

    @pytest.mark.parametrize(
        ("timeout", "error"),
        [
            (-1, forebay.BadArgument),
            (float("inf"), forebay.BadArgument),
            (float("nan"), forebay.BadArgument),
            ("soon", TypeError),
        ],
    )
    def test_bad_timeouts_are_refused(self, store, timeout, error):
        with store.subscribe() as events, pytest.raises(error):
            events.next(timeout)

    def test_without_a_timeout_it_takes_as_long_as_it_takes(self, store):
        with store.subscribe() as events:
            with Other(store, "hear(); store.put('a', b'x')") as other:
                thread = threading.Thread(target=other.tell)
                thread.start()
                assert events.next().id == "a"
                thread.join()


class TestIteration:
    def test_in_a_for_loop_until_it_is_closed(self, store):
        events = store.subscribe()
        store.put_many({f"a{i}": np.zeros(1) for i in range(5)})
        seen = []
        for event in events:
            seen.append(event.id)
            if len(seen) == 5:
                events.close()
        assert seen == [f"a{i}" for i in range(5)]
        assert list(events) == []

    def test_an_iteration_that_waits_ends_when_another_thread_closes_it(self, store):
        events = store.subscribe()
        seen = []
        thread = threading.Thread(target=lambda: seen.extend(events))
        thread.start()
        store.put("a", np.zeros(1))
        assert waits(store, "waiting_subscribers")
        events.close()
        thread.join(PATIENCE)
        assert [event.id for event in seen] == ["a"]

    def test_in_an_async_for_loop(self, store):
        async def main():
            seen = []
            with store.subscribe("a") as events:
                with Other(store, "hear(); [store.put(f'a{i}', b'x') for i in range(20)]") as other:
                    other.tell()
                    async for event in events:
                        seen.append(event.id)
                        if len(seen) == 20:
                            break
            return seen

        assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [f"a{i}" for i in range(20)]

    def test_an_async_iteration_ends_when_it_is_closed(self, store):
        async def main():
            events = store.subscribe()
            task = asyncio.ensure_future(anext_of(events))
            await asyncio.sleep(0)
            events.close()
            with pytest.raises(StopAsyncIteration):
                await task
            assert [event async for event in events] == []

        async def anext_of(events):
            return await events.__anext__()

        asyncio.run(asyncio.wait_for(main(), PATIENCE))

    def test_a_cancelled_wait_loses_no_event(self, store):
        async def main():
            with store.subscribe() as events:
                for i in range(3):
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(events.__anext__(), 0.01)
                    store.put(f"a{i}", np.zeros(1))
                    assert (await events.__anext__()).id == f"a{i}"

        asyncio.run(asyncio.wait_for(main(), PATIENCE))

    def test_two_tasks_cannot_wait_at_once(self, store):
        async def main():
            with store.subscribe() as events:
                first = asyncio.ensure_future(events.__anext__())
                await asyncio.sleep(0)
                with pytest.raises(forebay.BadState, match="another task"):
                    await events.__anext__()
                store.put("a", np.zeros(1))
                assert (await first).id == "a"

        asyncio.run(asyncio.wait_for(main(), PATIENCE))


class TestCursor:
    def test_who_goes_on_from_it_misses_nothing(self, store):
        names = [f"a{i}" for i in range(40)]
        events = store.subscribe()
        store.put_many({name: np.zeros(1) for name in names})
        for handed_out in range(40):
            seen = []
            with store.subscribe("", events.cursor) as resumed:
                while names[-1] not in seen:
                    seen.append(resumed.next(PATIENCE).id)
            # Maybe some again; then all that are still to come.
            assert seen == names[40 - len(seen) :]
            assert len(seen) >= 40 - handed_out
            assert events.next(PATIENCE).id == names[handed_out]
        with store.subscribe("", events.cursor) as resumed, pytest.raises(forebay.Timeout):
            resumed.next(0)
        events.close()

    def test_behind_a_whole_batch_it_is_exact(self, store):
        with store.subscribe("a") as events:
            store.put("a1", np.zeros(1))
            assert take(events, 1) == [("sealed", "a1", 1)]
            cursor = events.cursor
        store.put("b", np.zeros(1))
        store.put("a2", np.zeros(1))
        with store.subscribe("a", from_cursor=cursor) as events:
            assert take(events, 1) == [("sealed", "a2", 1)]

    def test_in_another_process(self, store):
        with store.subscribe() as events:
            cursor = events.cursor
        store.put("a", np.zeros(1))
        script = f"say(store.subscribe('', {cursor!r}).next(20).id)"
        with Other(store, script) as other:
            assert other.hear() == "a"

    def test_it_survives_the_daemon(self, daemon):
        with daemon.connect() as store:
            with store.subscribe() as events:
                store.put("a", np.zeros(1))
                daemon.kill()
                daemon.start()
                store.put("b", np.zeros(1))
                seen = [events.next(PATIENCE)]
                while seen[-1].id != "b":
                    seen.append(events.next(PATIENCE))
                cursor = events.cursor
            store.put("c", np.zeros(1))
            with store.subscribe("", cursor) as events:
                assert events.next(PATIENCE).id == "c"

    def test_what_was_missed_is_counted(self, store):
        with store.subscribe() as events:
            cursor = events.cursor
        store.put("a", np.zeros(1))
        for _ in range(34):
            ids = [f"m{i}" for i in range(1000)]
            store.put_many({name: b"" for name in ids})
            store.remove_many(ids)
        with store.subscribe("", cursor) as events:
            missed = events.next(PATIENCE)
            following = events.next(PATIENCE)
        assert missed.kind == "missed"
        assert missed.missed == 1 + 34 * 2000 - 65_536
        assert (missed.cause, missed.version, missed.serial, missed.size) == (None, 0, 0, 0)
        assert repr(missed) == f"<forebay.Event missed {missed.missed}>"
        assert following.kind in ("sealed", "removed")

    def test_of_another_store(self, store, daemon):
        with daemon.connect() as other, other.subscribe() as events:
            cursor = events.cursor
        with pytest.raises(forebay.WrongStore):
            store.subscribe("", cursor)

    @pytest.mark.parametrize("cursor", ["", "nonsense", "1:2", "x" * 1000])
    def test_nonsense_is_refused(self, store, cursor):
        with pytest.raises(forebay.BadArgument, match="cursor"):
            store.subscribe("", cursor)

    def test_one_of_the_future_is_refused(self, store):
        with pytest.raises(forebay.BadArgument, match="cursor"):
            store.subscribe("", f"{store.uuid}:{2**63}")


class TestEnd:
    def test_a_closed_one_says_so(self, store):
        with store.subscribe() as events:
            assert not events.closed
            assert store.uuid in repr(events)
        assert events.closed
        assert "closed" in repr(events)
        events.close()
        with pytest.raises(forebay.BadState, match="closed"):
            events.next(0)
        with pytest.raises(forebay.BadState, match="closed"):
            _ = events.cursor

    def test_it_ends_with_its_store(self, shared_daemon):
        store = shared_daemon.connect()
        events = store.subscribe()
        store.close()
        with pytest.raises(forebay.BadState):
            events.next(PATIENCE)
        with pytest.raises(forebay.BadState, match="closed"):
            store.subscribe()

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [((5,), TypeError), (("x" * 256,), forebay.BadArgument), (("", 5), TypeError)],
    )
    def test_bad_arguments_are_refused(self, store, arguments, error):
        with pytest.raises(error):
            store.subscribe(*arguments)

    def test_a_forked_child_is_told_to_make_its_own(self, store):
        with store.subscribe() as events:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    try:
                        events.next(0)
                    except forebay.BadState:
                        mine = store.subscribe()
                        store.put("a", np.zeros(1))
                        status = 0 if mine.next(PATIENCE).id == "a" else 2
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert events.next(PATIENCE).id == "a"

    def test_a_subscriber_that_dies_costs_nothing(self, store):
        with Other(store, "events = store.subscribe(); say('ready'); events.next()") as other:
            assert other.hear() == "ready"
            assert waits(store, "waiting_subscribers")
            other.kill()
            assert waits(store, "waiting_subscribers", 0)
