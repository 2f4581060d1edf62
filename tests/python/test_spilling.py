# SPDX-License-Identifier: Apache-2.0
"""Segments that leave memory for a disk or a pool, and come back."""

import os
import pathlib
import subprocess
import threading
import time
import uuid

import conftest
import numpy as np
import pytest

import forebay

PROGRAMS = conftest.DAEMON.resolve().parent
MIB = 1 << 20


class Pool:
    """A forebay-poold in a process of its own."""

    def __init__(self, directory: pathlib.Path, capacity: str = "256MiB") -> None:
        self.key = str(directory / "key")
        subprocess.run([PROGRAMS / "forebay-poold", "--make-key", self.key], check=True)
        self.process = subprocess.Popen(
            [
                *(PROGRAMS / "forebay-poold", "--listen", "127.0.0.1:0", "--drop"),
                *("--capacity", capacity, "--name", f"test-{uuid.uuid4()}", "--key", self.key),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        line = self.process.stdout.readline().split()
        assert line[0] == "ready:", line
        self.address = line[1]

    @property
    def options(self) -> tuple[str, ...]:
        return ("--pools", self.address, "--pool-key", self.key)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory):
    pool = Pool(tmp_path_factory.mktemp("pool"))
    yield pool
    pool.end()


@pytest.fixture(params=["disk", "pool"])
def tiered(request: pytest.FixtureRequest, tmp_path: pathlib.Path):
    """A store of 32 MiB with a tier."""
    if request.param == "disk":
        options = ("--spill-dir", str(tmp_path / "spill"))
    else:
        options = request.getfixturevalue("pool").options
    daemon = conftest.Daemon(tmp_path, "32MiB", options)
    with daemon.connect() as store:
        yield store
    daemon.end()


def blocks(count: int, size: int = 4 * MIB) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [random.integers(0, 1 << 60, size // 8) for _ in range(count)]


def test_three_times_the_memory_comes_back_as_it_was(tiered):
    made = blocks(24)
    for i, block in enumerate(made):
        tiered.put(f"block/{i}", block)
    status = tiered.status()
    assert status["spilled"] >= 16
    assert status["used_bytes"] <= status["capacity_bytes"]
    for i, block in enumerate(made):
        np.testing.assert_array_equal(tiered.get(f"block/{i}"), block)
    assert {info.id for info in tiered.list("block/")} == {f"block/{i}" for i in range(24)}


def test_arrays_that_are_looked_at_stay_where_they_are(tiered):
    made = blocks(12)
    tiered.put("mine", made[0])
    mine = tiered.get("mine")
    address = mine.__array_interface__["data"][0]
    for i, block in enumerate(made):
        tiered.put(f"other/{i}", block)
    assert tiered.where("mine").in_memory
    np.testing.assert_array_equal(mine, made[0])
    assert tiered.get("mine").__array_interface__["data"][0] == address


def test_spill_and_restore_by_hand(tiered):
    ref = tiered.put("a", np.arange(MIB))
    assert tiered.where(ref).in_memory
    assert tiered.where(ref).copies == []
    tiered.spill(ref)
    where = tiered.where("a")
    assert not where.in_memory
    assert [copy.up for copy in where.copies] == [True]
    assert where.size == 8 * MIB
    assert tiered.restore(["a"]) == 1
    assert tiered.where("a").in_memory
    assert len(tiered.where("a").copies) == 1  # clean: it goes again without a copy
    assert repr(tiered.where("a")).startswith("<forebay.Whereabouts memory, ")


def test_prefetch_brings_back_without_a_wait(tiered):
    refs = [tiered.put(f"a/{i}", np.full(MIB // 8, i)) for i in range(4)]
    tiered.spill(refs)
    tiered.prefetch(refs)
    deadline = time.monotonic() + 20
    while not all(tiered.where(ref).in_memory for ref in refs):
        assert time.monotonic() < deadline
    tiered.prefetch("not there")


def test_a_part_is_read_without_the_rest(tiered):
    table = np.arange(2 * MIB, dtype="i8").reshape(-1, 16)
    ref = tiered.put("table", table)
    resident = tiered.get(ref, range=slice(10, 20))
    np.testing.assert_array_equal(resident, table[10:20])
    del resident  # it pins the whole
    tiered.spill(ref)
    part = tiered.get(ref, range=slice(100_000, 100_007))
    np.testing.assert_array_equal(part, table[100_000:100_007])
    assert part.dtype == table.dtype
    assert not part.flags.writeable
    large = tiered.get("table", range=slice(5, 60_000))
    np.testing.assert_array_equal(large, table[5:60_000])
    raw = tiered.get("table", range=(8, 24))
    np.testing.assert_array_equal(raw.view("i8"), [1, 2])
    assert not tiered.where(ref).in_memory
    with pytest.raises(forebay.BadArgument, match="does not lie in it"):
        tiered.get("table", range=(0, 1 << 40))
    with pytest.raises(forebay.BadArgument, match="step"):
        tiered.get("table", range=slice(0, 10, 2))
    with pytest.raises(forebay.BadArgument, match="ends before"):
        tiered.get("table", range=(2, 1))
    with pytest.raises(TypeError, match="slice"):
        tiered.get("table", range=7)


def test_small_ones_travel_together(tiered):
    refs = [tiered.put(f"small/{i}", np.full(100, i)) for i in range(500)]
    tiered.spill(refs)
    status = tiered.status()
    assert status["spilled"] == 500
    assert 0 < status["packs"] < 50
    for i, ref in enumerate(refs):
        assert tiered.get(ref)[99] == i
    tiered.remove_many(refs)
    deadline = time.monotonic() + 20
    while tiered.status()["packs"] > 0:
        assert time.monotonic() < deadline


def test_objects_groups_and_versions_come_back(tiered):
    value = {"weights": np.arange(200_000.0), "name": "model"}
    tiered.put("object", value)
    tiered.put("group", {"x": np.arange(MIB), "y": np.ones(10)})
    first = tiered.put("v", np.zeros(MIB))
    second = tiered.put("v", np.ones(MIB))
    tiered.spill(["object", "group", first, second])
    np.testing.assert_array_equal(tiered.get("object")["weights"], value["weights"])
    group = tiered.get("group")
    assert group["x"][-1] == MIB - 1
    assert tiered.get("v", 1)[0] == 0
    assert tiered.get("v")[0] == 1
    taken = tiered.update("v", take=True)
    taken.array[:] += 1
    taken.seal()
    assert tiered.get("v", 3)[0] == 2
    with pytest.raises(forebay.Superseded):
        tiered.get(second)


def test_many_who_want_the_same_share_one_fetch(tiered):
    ref = tiered.put("hot", blocks(1)[0])
    tiered.spill(ref)
    found = []

    def read():
        with forebay.connect(tiered.address) as mine:
            found.append(int(mine.get("hot")[5]))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    with forebay.connect(tiered.address) as mine:
        assert mine.where("hot").in_memory


def test_events_tell_of_the_way_out_and_back(tiered):
    with tiered.subscribe("e") as events:
        tiered.put("e", np.arange(MIB))
        tiered.spill("e")
        tiered.get("e")
        kinds = []
        while len(kinds) < 3:
            kinds.append(next(events).kind)
    assert kinds == ["sealed", "spilled", "restored"]


def test_hints_are_heard(tiered):
    keep = tiered.put("keep", blocks(1)[0])
    done = tiered.put("done", blocks(1)[0])
    tiered.hint(keep, priority=5)
    tiered.hint([done], last_use=True)
    tiered.hint("not there", next_use=10)
    for i, block in enumerate(blocks(10)):
        tiered.put(f"other/{i}", block)
    assert tiered.where(keep).in_memory
    assert not tiered.where(done).in_memory


def test_what_was_spilled_outlives_the_daemon(tmp_path, pool):
    daemon = conftest.Daemon(tmp_path, "32MiB", (*pool.options, "--spill-dir", str(tmp_path / "d")))
    made = blocks(16)
    with daemon.connect() as store:
        for i, block in enumerate(made):
            store.put(f"block/{i}", block)
        daemon.kill()
        daemon.start()
        for i, block in enumerate(made):
            np.testing.assert_array_equal(store.get(f"block/{i}", timeout=10), block)
    daemon.end()


def test_without_a_tier_it_is_said_so(store):
    store.put("a", np.arange(10))
    for call in (store.spill, store.publish):
        with pytest.raises(forebay.BadState, match="--pools or --spill-dir"):
            call("a")
    assert store.restore("a") == 1
    assert store.where("a").in_memory
    with pytest.raises(forebay.NotFound):
        store.where("none")
    with pytest.raises(forebay.BadState):
        store.get("none", from_="pool")
    with pytest.raises(forebay.BadArgument, match="from_"):
        store.get("a", from_="disk")


def test_a_pool_that_is_gone_is_an_error_and_not_a_wait(tmp_path):
    pool = Pool(tmp_path)
    daemon = conftest.Daemon(tmp_path, "32MiB", pool.options)
    with daemon.connect() as store:
        store.put("a", np.arange(MIB))
        store.put("b", np.arange(10))
        store.spill("a")
        pool.process.kill()
        pool.process.wait()
        start = time.monotonic()
        with pytest.raises(forebay.TierDown, match="'a' version 1"):
            store.get("a")
        assert time.monotonic() - start < 5
        assert store.get("b")[3] == 3
        assert not store.where("a").copies[0].up
    daemon.end()
    pool.end()
    for name in os.listdir("/dev/shm"):
        if pool.process.args[8] in name:
            os.unlink(f"/dev/shm/{name}")


def test_what_one_node_publishes_another_one_gets(tmp_path, pool):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here = conftest.Daemon(tmp_path / "a", "32MiB", pool.options)
    there = conftest.Daemon(tmp_path / "b", "32MiB", pool.options)
    with here.connect() as mine, there.connect() as yours:
        table = np.arange(300_000, dtype="f4").reshape(300, 1000)
        ref = mine.put("shared/table", table)
        with pytest.raises(forebay.NotFound):
            yours.get("shared/table", from_="pool")
        mine.publish(ref)
        assert mine.where(ref).published
        got = yours.get("shared/table", from_="pool")
        np.testing.assert_array_equal(got, table)
        assert got.dtype == table.dtype
        np.testing.assert_array_equal(yours.get("shared/table"), table)
        # The newest one, whichever the other node has seen.
        mine.publish(mine.put("shared/table", table * 2))
        np.testing.assert_array_equal(yours.get("shared/table", from_="pool"), table * 2)
        assert yours.get("shared/table", 1)[0, 1] == 1
        del got
        # Removing it there does nothing to it here.
        yours.remove("shared/table")
        np.testing.assert_array_equal(mine.get("shared/table", 1), table)
        np.testing.assert_array_equal(yours.get("shared/table", 1, from_="pool"), table)
    here.end()
    there.end()


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_segments_take_less_room(tmp_path, codec):
    daemon = conftest.Daemon(
        tmp_path, "32MiB", ("--spill-dir", str(tmp_path / "d"), "--compress", codec)
    )
    with daemon.connect() as store:
        made = np.tile(np.arange(1000), 1000)
        store.put("a", made)
        store.spill("a")
        where = store.where("a")
        assert where.stored * 2 < where.size
        np.testing.assert_array_equal(store.get("a", range=slice(5, 10)), made[5:10])
        np.testing.assert_array_equal(store.get("a"), made)
    daemon.end()


def test_a_trace_says_what_was_made_read_and_removed(tmp_path):
    trace = tmp_path / "trace.csv"
    daemon = conftest.Daemon(tmp_path, "32MiB", ("--trace", str(trace)))
    with daemon.connect() as store:
        ref = store.put("a", np.arange(1000))
        store.get("a")
        store.hint(ref, last_use=True)
        time.sleep(0.2)  # the daemon looks for reads each 10 ms
        store.remove("a")
    daemon.end()
    lines = [line.split(",") for line in trace.read_text().splitlines()]
    assert lines[0] == ["time_ns", "id", "size", "op"]
    mine = [line for line in lines if line[1] == str(ref.serial)]
    assert sorted(line[3] for line in mine) == ["create", "delete", "last_use", "read"]
    assert {int(line[2]) for line in mine} == {8000}
    assert mine[0][3] == "create"
    assert mine[-1][3] == "delete"
