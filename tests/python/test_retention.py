# SPDX-License-Identifier: Apache-2.0
"""What stays and what goes: keep, ttl, hold, persist."""

from __future__ import annotations

import numpy as np
import pytest

import forebay
from support import Other, eventually


def versions(store, name: str) -> list[int]:
    return [segment.version for segment in store.list(name)]


BAD_KEEPS = [
    (0, forebay.BadArgument),
    (-1, forebay.BadArgument),
    (65535, forebay.BadArgument),
    (2**70, forebay.BadArgument),
    ("some", forebay.BadArgument),
    (True, TypeError),
    (1.5, TypeError),
    (b"all", TypeError),
]
BAD_TTLS = [
    (0, forebay.BadArgument),
    (-1, forebay.BadArgument),
    (float("inf"), forebay.BadArgument),
    (float("nan"), forebay.BadArgument),
    ("soon", TypeError),
]


class TestKeep:
    def test_older_versions_go(self, store):
        for i in range(5):
            store.put("a", np.full(1, i), keep=2)
        assert versions(store, "a") == [4, 5]
        assert store.stat("a").keep == 2

    def test_it_is_the_ids_and_not_the_versions(self, store):
        store.put("a", np.zeros(1), keep=2)
        for _ in range(3):
            store.put("a", np.zeros(1))
        assert versions(store, "a") == [3, 4]

    def test_a_numpy_integer_will_do(self, store):
        store.put("a", np.zeros(1), keep=np.int64(3))
        assert store.stat("a").keep == 3

    def test_what_is_pinned_goes_when_it_is_not_any_more(self, store):
        store.put("a", np.zeros(1), keep=1)
        array = store.get("a")
        store.put("a", np.ones(1))
        assert store.get("a", 1)[0] == 0
        del array
        assert eventually(lambda: versions(store, "a") == [2])

    def test_all_of_them_stay(self, store):
        store.put("a", np.zeros(1), keep=1)
        store.keep("a", "all")
        for _ in range(5):
            store.put("a", np.zeros(1))
        assert versions(store, "a") == [1, 2, 3, 4, 5, 6]
        assert store.stat("a").keep == "all"

    def test_nothing_is_said_until_somebody_says_it(self, store):
        store.put("a", np.zeros(1))
        assert store.stat("a").keep is None

    def test_it_may_be_said_later(self, store):
        for _ in range(4):
            store.put("a", np.zeros(1))
        assert store.keep("a", 1) is None
        assert versions(store, "a") == [4]
        with pytest.raises(forebay.NotFound):
            store.keep("nothing", 1)
        with pytest.raises(forebay.BadId):
            store.keep("", 1)

    @pytest.mark.parametrize(("bad", "error"), BAD_KEEPS)
    def test_what_cannot_be_is_refused_everywhere(self, store, bad, error):
        store.put("there", np.zeros(1))
        for call in (
            lambda: store.put("a", np.zeros(1), keep=bad),
            lambda: store.put("a", {"x": np.zeros(1)}, keep=bad),
            lambda: store.put_many({"a": np.zeros(1)}, keep=bad),
            lambda: store.put_manifest("a", [], keep=bad),
            lambda: store.create("a", 1, keep=bad),
            lambda: store.update("there", keep=bad),
            lambda: store.get_or_create("a", lambda: np.zeros(1), keep=bad),
            lambda: store.keep("there", bad),
        ):
            with pytest.raises(error):
                call()
        assert "a" not in store
        assert versions(store, "there") == [1]

    def test_none_is_nothing_to_say(self, store):
        store.put("a", np.zeros(1), keep=None, ttl=None)
        with pytest.raises(forebay.BadArgument):
            store.keep("a", None)


class TestTimeToLive:
    def test_it_is_removed_when_its_time_is_up(self, store):
        with store.subscribe("a") as events:
            store.put("a", np.zeros(1), ttl=0.05)
            store.put("stays", np.zeros(1), ttl=1000)
            assert events.next(20).kind == "sealed"
            gone = events.next(20)
        assert (gone.kind, gone.cause, gone.id) == ("removed", "expired", "a")
        assert "a" not in store
        assert 900 < store.stat("stays").expires_in <= 1000

    def test_never_is_none(self, store):
        store.put("a", np.zeros(1))
        assert store.stat("a").expires_in is None

    def test_less_than_a_nanosecond_is_not_never_and_ages_are_fine(self, store):
        with store.subscribe("a") as events:
            store.put("a", np.zeros(1), ttl=1e-30)
            assert [events.next(20).kind for _ in range(2)] == ["sealed", "removed"]
        store.put("b", np.zeros(1), ttl=1e300)
        assert store.stat("b").expires_in > 1e6

    @pytest.mark.parametrize("make", ["create", "update", "group", "many", "loader"])
    def test_however_it_was_made(self, store, make):
        if make == "update":
            store.put("a", np.zeros(1))
        with store.subscribe("a") as events:
            if make == "create":
                store.create("a", 1, ttl=0.02).seal()
            elif make == "update":
                store.update("a", ttl=0.02).seal()
            elif make == "group":
                store.put("a", {"x": np.zeros(1)}, ttl=0.02)
            elif make == "many":
                store.put_many({"a": np.zeros(1)}, ttl=0.02)
            else:
                store.get_or_create("a", lambda: np.zeros(1), ttl=0.02)
            assert events.next(20).kind == "sealed"
            assert events.next(20).cause == "expired"

    @pytest.mark.parametrize(("bad", "error"), BAD_TTLS)
    def test_what_cannot_be_is_refused_everywhere(self, store, bad, error):
        store.put("there", np.zeros(1))
        for call in (
            lambda: store.put("a", np.zeros(1), ttl=bad),
            lambda: store.put_many({"a": np.zeros(1)}, ttl=bad),
            lambda: store.create("a", 1, ttl=bad),
            lambda: store.update("there", ttl=bad),
            lambda: store.get_or_create("a", lambda: np.zeros(1), ttl=bad),
        ):
            with pytest.raises(error):
                call()
        assert "a" not in store


class TestHold:
    def test_keep_does_not_take_it_until_the_last_hold_ends(self, store):
        ref = store.put("a", np.zeros(1), keep=1)
        assert store.hold("a") == ref
        assert store.hold(ref) == ref
        store.put("a", np.ones(1))
        store.unhold(ref)
        assert versions(store, "a") == [1, 2]
        store.unhold(ref)
        assert versions(store, "a") == [2]

    def test_room_that_is_wanted_does_not_take_it(self, store):
        store.put("a", np.full(3_000_000, 7.0), evictable=True)
        ref = store.hold("a", 1)
        for i in range(8):
            store.put(f"other{i}", np.zeros(3_000_000), evictable=True)
        assert store.get(ref)[0] == 7
        store.unhold(ref)

    def test_it_pins_nothing_and_a_remove_takes_it(self, store):
        ref = store.put("a", np.zeros(1))
        store.hold(ref)
        stat = store.stat("a")
        assert stat.holders == []
        assert [holder.pid for holder in stat.leases] != []
        assert store.remove("a") == 1
        store.unhold(ref)  # fine: it is not held any more, which was asked for

    def test_it_ends_with_its_process(self, store):
        ref = store.put("a", np.zeros(1), keep=1)
        with Other(store, "store.hold('a', 1); say('holds'); hear()") as holder:
            assert holder.hear() == "holds"
            store.put("a", np.ones(1))
            assert store.get(ref)[0] == 0
            assert [lease.pid for lease in store.stat(ref).leases] == [holder.pid]
            holder.kill()
            assert eventually(lambda: versions(store, "a") == [2])

    def test_bad_input_is_refused(self, store):
        ref = store.put("a", np.zeros(1))
        with pytest.raises(forebay.BadState, match="not held"):
            store.unhold(ref)
        with pytest.raises(forebay.NotFound):
            store.hold("nothing")
        with pytest.raises(forebay.NotFound):
            store.hold("a", 7)
        with pytest.raises(TypeError, match="Ref"):
            store.unhold("a")
        with pytest.raises(TypeError):
            store.hold(5)
        with pytest.raises(forebay.BadId):
            store.hold("")
        store.remove("a")
        store.put("a", np.zeros(1), version=1)
        with pytest.raises(forebay.StaleRef):
            store.hold(ref)

    def test_a_ref_of_another_store_is_refused(self, store, daemon):
        with daemon.connect() as other:
            ref = other.put("a", np.zeros(1))
        store.put("a", np.zeros(1))
        for call in (store.hold, store.persist, store.unhold, store.stat):
            with pytest.raises(forebay.WrongStore):
                call(ref)


class TestPersist:
    def test_nothing_but_a_remove_takes_it_from_then_on(self, store):
        ref = store.put("a", np.zeros(1), keep=1, evictable=True)
        assert store.persist("a") == ref
        assert store.stat("a").info.persistent
        store.put("a", np.ones(1))
        assert versions(store, "a") == [1, 2]
        assert store.remove(ref) == 1

    def test_by_version_and_by_ref(self, store):
        refs = [store.put("a", np.zeros(1)) for _ in range(3)]
        assert store.persist("a", 1) == refs[0]
        assert store.persist(refs[1]) == refs[1]
        assert [segment.persistent for segment in store.list("a")] == [True, True, False]

    def test_bad_input_is_refused(self, store):
        ref = store.put("a", np.zeros(1))
        store.remove("a")
        with pytest.raises(forebay.NotFound):
            store.persist("a")
        store.put("a", np.zeros(1), version=1)
        with pytest.raises(forebay.StaleRef):
            store.persist(ref)
        assert not store.stat("a").info.persistent
        with pytest.raises(TypeError):
            store.persist(None)


class TestScopes:
    """What `_begin_scope` and `_end_scope` promise to what stands on them."""

    def test_everything_inside_goes_at_the_end(self, store):
        store._begin_scope("job/")
        store.put("job/a", np.zeros(3))
        store.put(b"job/b", np.zeros(3))
        store.put("jobs", np.zeros(3))
        assert store._end_scope(b"job/") == 2
        assert "job/a" not in store
        assert "jobs" in store

    def test_it_may_be_bytes_of_any_kind(self, store):
        store._begin_scope(b"\xff\x00")
        store.put(b"\xff\x00\x01", np.zeros(3))
        assert store._end_scope(b"\xff\x00") == 1

    def test_what_cannot_be(self, store):
        store._begin_scope("a/")
        with pytest.raises(forebay.Conflict, match="a/"):
            store._begin_scope("a/b")
        with pytest.raises(forebay.BadState):
            store._end_scope("a/b")
        with pytest.raises(forebay.BadId):
            store._begin_scope("")
        with pytest.raises(TypeError):
            store._begin_scope(3)
        assert store._end_scope("a/") == 0

    def test_it_ends_with_its_process(self, store):
        script = """
            store._begin_scope("job/")
            store.put("job/1", np.zeros(100_000))
            say("begun")
            hear()
        """
        with Other(store, script) as owner:
            assert owner.hear() == "begun"
            store.put("job/2", np.zeros(3))
            with pytest.raises(forebay.Conflict, match=str(owner.pid)):
                store._begin_scope("job/")
            owner.kill()
            assert eventually(lambda: not list(store.list("job/")))
