"""What XLA's runtime prints from C++, held back while it may be about a lost process.

When a process is lost, the runtime of the others prints a page and aborts. One line says the same.
"""

import contextlib
import ctypes
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

HELD_S = 3.0  # so long a text waits for the line that makes it needless
GREETING = re.compile(
    rb"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is|[\s\d:]"
)
"""The pieces of a line that each device says on stdout; the threads of several write theirs between one another's."""


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, text written to descriptors 1 and 2 appears on stderr `HELD_S` later; Python's own does not.

    An abort is held as long, for a thread that knows the reason to say it and end the process.
    """
    streams = sys.stdout, sys.stderr
    kept = [_kept(stream, number) for number, stream in enumerate(streams, 1)]
    reading, writing = os.pipe()
    for number in (1, 2):
        os.dup2(writing, number)
    os.close(writing)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in kept)
    forwarder = threading.Thread(target=_forward, args=(reading, kept[1]), daemon=True)
    forwarder.start()
    # `abort` runs its handler in the thread that aborts and dies after it: the handler is to sleep(6).
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    before = libc.signal(ctypes.c_int(signal.SIGABRT), libc.sleep)
    try:
        yield
    finally:
        libc.signal(ctypes.c_int(signal.SIGABRT), ctypes.c_void_p(before))
        for stream in (sys.stdout, sys.stderr):
            stream.close()
        sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(kept, 1):
            os.dup2(
                descriptor, number
            )  # the last of them closes the pipe, which ends the forwarder
        forwarder.join(HELD_S + 1)
        for descriptor in kept:
            os.close(descriptor)


def _kept(stream: IO[str], number: int) -> int:
    stream.flush()
    return os.dup(number)


def _forward(reading: int, to: int) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while text := pipe.read(2**16):
            until = time.monotonic() + HELD_S
            while (left := until - time.monotonic()) > 0:
                if select.select([pipe], [], [], left)[0]:
                    more = pipe.read(2**16)
                    text += more
                    if not more:
                        break
            os.write(to, without_greetings(text))


def without_greetings(text: bytes) -> bytes:
    """The lines of a text that say more than greetings, whole or in pieces, do."""
    return b"".join(line for line in text.splitlines(keepends=True) if GREETING.sub(b"", line))
