"""That a command which is told to end clears away what it has begun, as after Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def ended_properly() -> Iterator[None]:
    """Within it, SIGTERM is a SystemExit with the code that shells know it by.

    By itself it ends Python on the spot: half a backup would stay, or a server that was to try one.
    """

    def end(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        # Signals are not for other threads.
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
