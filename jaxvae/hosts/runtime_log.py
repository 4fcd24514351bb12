"""Delayed output of XLA's C++ runtime, which is dropped if it is only about a lost process.

When a process is lost, the runtime of the others prints a page and aborts; our message is a single line.
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

HELD_S = 3.0  # delay of the output, in which our own line may make it unnecessary
GREETING = re.compile(
    rb"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is|[\s\d:]"
)
"""The parts of a line that each device prints to stdout; the lines of several threads may be interleaved."""


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Delay text written to descriptors 1 and 2 by `HELD_S`, and print it on stderr; Python's output is not delayed.

    An abort is delayed too, so that a thread that knows the reason can print it and end the process.
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
    # `abort` runs its handler in the aborting thread before the process dies: the handler is sleep(SIGABRT = 6).
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
            )  # the last of these closes the pipe, which ends the forwarder
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
    """Return the lines of a text that contain more than greetings or parts of them."""
    return b"".join(line for line in text.splitlines(keepends=True) if GREETING.sub(b"", line))
