"""Every line of the project's code as a point where a process is killed or a fault appears.

Both run in a child of its own (``fork``), so that a kill is a real one (SIGKILL) and nothing that
a fault leaves in memory reaches the next trial.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rejuvenet

ROOT = str(Path(rejuvenet.__file__).parent)


@dataclass
class Outcome:
    """How a child ended: what it returned or raised, or the signal; time and peak memory."""

    value: Any = None
    error: BaseException | None = None
    signal: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    peak: int = 0


def at_line(n: int, act: Callable[[], None], files: tuple[str, ...]) -> Callable:
    """A trace function that calls ``act`` at the ``n``-th line run in ``files``."""
    left = [n]
    wanted = {os.path.join(ROOT, file) for file in files}

    def local(frame, event, argument):
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                act()
        return local

    def trace(frame, event, argument):
        return local if frame.f_code.co_filename in wanted else None

    trace.left = left
    return trace


def lines(job: Callable[[], Any], files: tuple[str, ...], seconds: float = 60.0) -> int:
    """Number of lines that a job runs in ``files``."""

    def count():
        trace = at_line(sys.maxsize, lambda: None, files)
        sys.settrace(trace)
        try:
            job()
        finally:
            sys.settrace(None)
        return sys.maxsize - trace.left[0]

    outcome = in_child(count, seconds=seconds)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def killed_at(
    n: int, job: Callable[[], Any], files: tuple[str, ...], seconds: float = 60.0
) -> Outcome:
    """The job in a child that is killed at its ``n``-th line."""
    kill = at_line(n, lambda: os.kill(os.getpid(), signal.SIGKILL), files)
    return in_child(job, kill, seconds)


def faulted_at(
    n: int, job: Callable[[], Any], files: tuple[str, ...], error: BaseException
) -> Outcome:
    """The job in a child where ``error`` appears at its ``n``-th line."""

    def act():
        raise error

    return in_child(job, at_line(n, act, files))


def in_child(
    job: Callable[[], Any], trace: Callable | None = None, seconds: float = 60.0
) -> Outcome:
    """Run a job in a child; SIGKILL after ``seconds``."""
    reading, writing = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            _work(job, trace, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    outcome = Outcome()
    os.set_blocking(reading, False)
    content = b""
    while True:
        try:
            part = os.read(reading, 1 << 16)
        except BlockingIOError:
            part = None
        if part == b"":
            break
        content += part or b""
        if time.perf_counter() - began > seconds:
            os.kill(child, signal.SIGKILL)
            break
        if part is None:
            time.sleep(0.001)
    os.close(reading)
    _, status, usage = os.wait4(child, 0)
    outcome.processor = usage.ru_utime + usage.ru_stime
    outcome.seconds, outcome.peak = time.perf_counter() - began, usage.ru_maxrss * 1024
    outcome.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if content and not outcome.signal:
        outcome.value, outcome.error = pickle.loads(content)
    return outcome


def _work(job: Callable[[], Any], trace: Callable | None, writing: int) -> None:
    value, error = None, None
    try:
        sys.settrace(trace)
        try:
            value = job()
        finally:
            sys.settrace(None)
    except BaseException as raised:
        error = raised
    try:
        sent = pickle.dumps((value, error))
    except Exception:
        sent = pickle.dumps((None, RuntimeError("".join(traceback.format_exception(error)))))
    with os.fdopen(writing, "wb") as file:
        file.write(sent)
