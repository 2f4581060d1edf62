# SPDX-License-Identifier: Apache-2.0
"""C++ workers: programs that read a task from a line, and answer with a line (see worker.h).

A thread of the master drives each of them, and takes the next task when its worker is free: as with
the processes of an executor, a task goes to whoever is idle.
"""

from __future__ import annotations

import pathlib
import queue
import subprocess
import threading
from collections.abc import Sequence


class NativeWorkers:
    def __init__(self, program: pathlib.Path, socket: str, workers: int) -> None:
        self.workers = workers
        self._processes = [
            subprocess.Popen([program, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(workers)
        ]
        # What the program says of itself when it is ready.
        self.greeting = [self._answer_of(process) for process in self._processes][0]
        self._tasks: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[int, str | Exception]] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._drive, args=(process,), daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def map(self, lines: Sequence[str]) -> list[str]:
        for task in enumerate(lines):
            self._tasks.put(task)
        answers = [""] * len(lines)
        for _ in lines:
            number, answer = self._answers.get()
            if isinstance(answer, Exception):
                raise answer
            answers[number] = answer
        return answers

    def on_each_worker(self, lines: Sequence[str]) -> None:
        """Has each of them do all of these. Nothing else may be under way."""
        for process in self._processes:
            for line in lines:
                self._ask(process, line)

    def close(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            assert process.stdin and process.stdout
            process.stdin.close()
            process.wait()
            process.stdout.close()

    def __enter__(self) -> NativeWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drive(self, process: subprocess.Popen[bytes]) -> None:
        while (task := self._tasks.get()) is not None:
            number, line = task
            try:
                self._answers.put((number, self._ask(process, line)))
            except Exception as error:  # the master's map raises it
                self._answers.put((number, error))

    def _ask(self, process: subprocess.Popen[bytes], line: str) -> str:
        assert process.stdin
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        return self._answer_of(process)

    def _answer_of(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout
        answer = process.stdout.readline().decode().rstrip("\n")
        if not answer.startswith("ok"):
            raise RuntimeError(f"a C++ worker failed: {answer or 'it has ended'}")
        return answer[3:]
