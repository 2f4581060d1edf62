# SPDX-License-Identifier: Apache-2.0
"""Walks a store's index from within gdb: `gdb -x scripts/forebay-gdb.py -p PID`, of a daemon or a client.

  forebay-index [MOST]     the stamp, what is in use, and up to MOST entries (default 50)
  forebay-entry NUMBER     one entry with its record
  forebay-line NUMBER      one line of the exact buckets with its overflow lines

Reads only. Finds the index among the process's mappings by its magic, and its structs by the debug
information, so it needs a program or library that was built with -g.
"""

import gdb

_MAGIC = b"FBYINDEX"
_NAMES = "forebay::shm::"


def _number(value):
    """Return the integer inside a std::atomic, or the integer itself."""
    if value.type.strip_typedefs().code == gdb.TYPE_CODE_STRUCT:
        return int(value["_M_i"])
    return int(value)


def _at(type_name, address):
    pointer = gdb.lookup_type(_NAMES + type_name).pointer()
    return gdb.Value(address).cast(pointer).dereference()


class _Index:
    def __init__(self):
        self.base = self._find()
        self.stamp = _at("IndexStamp", self.base)
        page = 4096
        self.live = _at("BasicIndexLive<std::atomic>", self.base + page)
        self.regions = self.stamp["regions"]

    @staticmethod
    def _find():
        inferior = gdb.selected_inferior()
        for line in gdb.execute("info proc mappings", to_string=True).splitlines():
            fields = line.split()
            if not fields or not fields[0].startswith("0x"):
                continue
            start = int(fields[0], 16)
            try:
                if bytes(inferior.read_memory(start, len(_MAGIC))) == _MAGIC:
                    return start
            except gdb.MemoryError:
                continue
        raise gdb.GdbError("this process maps no index of a Forebay store")

    def item(self, region, type_name, number):
        size = gdb.lookup_type(_NAMES + type_name).sizeof
        return _at(type_name, self.base + int(self.regions[region]) + number * size)

    def entry(self, number):
        return self.item("entries", "BasicEntry<std::atomic>", number)

    def record(self, number):
        return self.item("records", "BasicRecord<std::atomic>", number)

    def id(self, number):
        record = self.record(number)
        words = record["id"]
        size = _number(words[0]) & 0xFF
        if size > words.type.sizeof - 1:
            words = self.item("annexes", "BasicAnnex<std::atomic>", number)["id"]
        low, high = words.type.range()
        text = b"".join(_number(words[i]).to_bytes(8, "little") for i in range(low, high + 1))
        return text[1 : 1 + size]

    def state(self, number):
        bits = _number(self.entry(number)["word"])
        state = gdb.Value(bits & 0xFF).cast(gdb.lookup_type(_NAMES + "State"))
        return str(state).rpartition("::")[2]

    def describe(self, number):
        entry = self.entry(number)
        return (
            f"{number:8} {self.state(number):10} {self.id(number)!r} "
            f"version {_number(entry['version'])} serial {_number(entry['serial'])} "
            f"size {_number(entry['size'])} location {_number(entry['location']):#x}"
        )


class _IndexCommand(gdb.Command):
    """forebay-index [MOST]: print the index of the store that this process maps."""

    def __init__(self):
        super().__init__("forebay-index", gdb.COMMAND_DATA)

    def invoke(self, argument, _from_tty):
        most = int(argument) if argument else 50
        index = _Index()
        live = index.live
        end = _number(live["entries_end"])
        print(
            f"index at {index.base:#x}: layout {int(index.stamp['layout_version'])}, "
            f"{end - 1} entries were used, next serial {_number(live['next_serial'])}, "
            f"{_number(live['newest_lines'])} newest and {_number(live['exact_lines'])} exact lines"
        )
        shown = 0
        for number in range(1, end):
            if index.state(number) == "free":
                continue
            if shown == most:
                print("  … more; forebay-index MOST")
                break
            shown += 1
            print(index.describe(number))


class _EntryCommand(gdb.Command):
    """forebay-entry NUMBER: print one entry and its record."""

    def __init__(self):
        super().__init__("forebay-entry", gdb.COMMAND_DATA)

    def invoke(self, argument, _from_tty):
        index = _Index()
        number = int(argument)
        print(index.describe(number))
        print(index.record(number))


class _LineCommand(gdb.Command):
    """forebay-line NUMBER: print one line of the exact buckets, and its overflow lines."""

    def __init__(self):
        super().__init__("forebay-line", gdb.COMMAND_DATA)

    def invoke(self, argument, _from_tty):
        index = _Index()
        line_type = "BasicLine<std::atomic, 7ul>"
        line = index.item("exact_lines", line_type, int(argument))
        while True:
            low, high = line["slots"].type.range()
            for i in range(low, high + 1):
                slot = _number(line["slots"][i])
                if slot:
                    print(f"  hash {slot >> 32:#010x} -> {index.describe(slot & 0xFFFFFFFF)}")
            link = _number(line["overflow"])
            if not link:
                break
            print(f" overflow line {link}")
            line = index.item("overflow_lines", line_type, link)


_IndexCommand()
_EntryCommand()
_LineCommand()
