"""Connections of all processes to the first: who is there, what each says, who was lost.

A closed connection tells at once that a process died, and silence that its machine did, also while
this process is blocked in a collective, where no library would tell.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from jaxvae.types import InputError

PING_S = 5.0
SILENCE_S = 40.0  # a process that says nothing for so long is lost
LEAVE_S = 10.0  # the others have so long to end before the first process does
GREETING = "jaxvae"
MAX_BYTES = 2**24


class Connection:
    """Messages to and from one process: JSON, one a line."""

    def __init__(self, sock: socket.socket):
        self.socket = sock
        self.inbox: queue.Queue[str] = queue.Queue()
        self._sending = threading.Lock()
        self._rest = b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, **message: Any) -> None:
        """Send a message; one to a process that has gone is dropped, which `receive` finds out."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def part(self) -> None:
        """Say no more; the other side has what was sent and sees the end of it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next message.

        Raises:
            OSError: nothing came for so long, or the other side has gone.
            ValueError: what came is no message.
        """
        self.socket.settimeout(timeout_s)
        while b"\n" not in self._rest:
            if len(self._rest) > MAX_BYTES:
                raise ValueError("a message without end")
            more = self.socket.recv(2**16)
            if not more:
                raise ConnectionError("closed")
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("not a message")
        return message


class Star:
    """The first process in the middle, connected to each other one.

    Args:
        process_id: which one this is.
        connections: of the first process, to each other one by its number; of the others, to 0.
        num_processes: how many there are.
    """

    def __init__(self, process_id: int, connections: dict[int, Connection], num_processes: int):
        self.process_id, self.num_processes = process_id, num_processes
        self.connections = connections
        self.advice = "start all of them again"
        self._ended = False
        self._ending = threading.Lock()
        self._listeners: list[threading.Thread] = []

    def watch(self) -> None:
        """Take messages and notice losses from now on, in threads."""
        self._listeners = [
            threading.Thread(target=self._listen, args=item, daemon=True)
            for item in self.connections.items()
        ]
        for thread in (*self._listeners, threading.Thread(target=self._ping, daemon=True)):
            thread.start()

    def gather(self, text: str) -> list[str]:
        """What every process passes to this call, in their order; it waits for all of them."""
        if self.process_id:
            self.connections[0].send(text=text)
            return json.loads(self.connections[0].inbox.get())
        said = [text, *(self.connections[i].inbox.get() for i in range(1, self.num_processes))]
        for connection in self.connections.values():
            connection.send(text=json.dumps(said))
        return said

    def leave(self, line: str, status: int) -> None:
        """Tell the others that this process stops, and why; they stop too, with the same status."""
        if not self._end():
            time.sleep(60)  # a thread is about to end this process, having said why
        self._tell(f"process {self.process_id} stopped: {line}", status)
        self._outlast()

    def finish(self) -> None:
        """Wait until all have come to an end; from then on nobody is missed."""
        if self.process_id:
            self.gather("")
        else:
            for connection in self.connections.values():
                connection.inbox.get()
            self._end()
            for connection in self.connections.values():
                connection.send(text="[]", last=True)
        for connection in self.connections.values():
            connection.part()

    def _end(self) -> bool:
        """Whether this call is the first that ends the star."""
        with self._ending:
            first, self._ended = not self._ended, True
        return first

    def _tell(self, line: str, status: int, *, but: int | None = None) -> None:
        for other, connection in self.connections.items():
            if other != but:
                connection.send(stop=line, status=status)

    def _ping(self) -> None:
        while not self._ended:
            for connection in self.connections.values():
                connection.send()
            time.sleep(PING_S)

    def _listen(self, other: int, connection: Connection) -> None:
        while True:
            try:
                message = connection.receive(SILENCE_S)
                if message.get("last"):
                    self._end()  # here, as the end of the connection may be the next thing to come
                if "text" in message:
                    connection.inbox.put(message["text"])
                elif "stop" in message:
                    self._stop(message["stop"], message["status"], other)
            except (OSError, ValueError) as error:
                how = f"said nothing for {SILENCE_S:g} s" if _is_silence(error) else "has gone"
                line = f"process {other} of {self.num_processes} was lost: it {how}"
                self._stop(line, 1, other)
                connection.socket.close()
                return

    def _stop(self, line: str, status: int, other: int) -> None:
        if self._end():
            self._tell(line, status, but=other)
            self._outlast(self.connections[other])
            _say_and_exit(f"{line}; {self.advice}", status)

    def _outlast(self, heard: Connection | None = None) -> None:
        """Let the others end before the first process: it serves JAX's own watch, which aborts who outlives it.

        Args:
            heard: the connection that this thread listens to, if it does.
        """
        if self.process_id:
            time.sleep(0.2)  # until what was sent has been read: an exit may drop the rest
            return
        until = time.monotonic() + LEAVE_S
        with contextlib.suppress(OSError, ValueError):
            while heard is not None:
                heard.receive(max(0.01, until - time.monotonic()))
        for thread in self._listeners:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))


def _is_silence(error: Exception) -> bool:
    return isinstance(error, TimeoutError)


def _say_and_exit(line: str, status: int) -> NoReturn:
    """End the process from whichever thread: the main one may be blocked for good."""
    print(f"jaxvae: error: {' '.join(line.split())}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)


def meet(
    host: str,
    port: int,
    *,
    num_processes: int,
    process_id: int,
    facts: dict[str, str],
    timeout_s: float,
) -> tuple[Star, str]:
    """Wait until all processes are there, and have the same facts.

    Args:
        host: of the first process, as the others reach it.
        port: a free one there.
        num_processes: how many to wait for, this one included.
        process_id: which one this is.
        facts: name -> value, which all must share.
        timeout_s: how long to wait.

    Returns:
        The star, and an address on the first process's machine with another free port.

    Raises:
        InputError: they are not all there in time, or differ; on every one of them.
    """
    deadline = time.monotonic() + timeout_s
    if process_id == 0:
        return _receive(host, port, num_processes, facts, deadline, timeout_s)
    connection = _connect(host, port, deadline, timeout_s)
    connection.send(hello=GREETING, process_id=process_id, num_processes=num_processes, facts=facts)
    try:
        # The first process waits as long for the last one, and may have started after this one.
        verdict = connection.receive(timeout_s + 5)
        error, address = verdict.get("error"), verdict.get("address")
        assert isinstance(error or address, str)
    except TimeoutError:
        connection.socket.close()
        error = f"coordinator: {host}:{port} took the call and said nothing in {timeout_s + 5:g} s"
        raise InputError(f"{error}; look at what process 0 says") from None
    except (OSError, ValueError, AssertionError):
        connection.socket.close()
        raise InputError(
            f"coordinator: {host}:{port} does not answer as process 0 of a jaxvae run does; "
            "look at what it says, or choose another port"
        ) from None
    if error:
        connection.socket.close()
        raise InputError(error)
    return Star(process_id, {0: connection}, num_processes), str(address)


def _connect(host: str, port: int, deadline: float, timeout_s: float) -> Connection:
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            return Connection(socket.create_connection((host, port), timeout=min(left, 10.0)))
        except OSError as error:
            if time.monotonic() + 0.2 > deadline:
                raise InputError(
                    f"coordinator: no answer from {host}:{port} within {timeout_s:g} s "
                    f"({error.strerror or error}); is process 0 running there, and the port open?"
                ) from None
            time.sleep(0.2)


def _receive(
    host: str,
    port: int,
    num_processes: int,
    facts: dict[str, str],
    deadline: float,
    timeout_s: float,
) -> tuple[Star, str]:
    connections: dict[int, Connection] = {}
    all_facts = {0: facts}

    def refuse(line: str, *more: Connection) -> NoReturn:
        for connection in (*connections.values(), *more):
            connection.send(error=line)
            connection.socket.close()
        raise InputError(line)

    with _listener(host, port) as listener:
        while len(connections) < num_processes - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = Connection(listener.accept()[0])
            except TimeoutError:
                missing = [i for i in range(1, num_processes) if i not in connections]
                names = ", ".join(map(str, missing))
                refuse(
                    f"num_processes: expected {num_processes} processes, but "
                    f"{'process' if len(missing) == 1 else 'processes'} {names} did not come to "
                    f"{host}:{port} within {timeout_s:g} s"
                )
            try:
                hello = connection.receive(2.0)
                if hello["hello"] != GREETING:
                    raise ValueError
                other, count = int(hello["process_id"]), int(hello["num_processes"])
                its_facts = dict(hello["facts"])
            except (OSError, ValueError, KeyError, TypeError):
                connection.socket.close()  # a stranger
                continue
            if count != num_processes:
                refuse(
                    f"num_processes: expected the same on every process, got {num_processes} on "
                    f"process 0 and {count} on process {other}",
                    connection,
                )
            if other in connections:
                refuse(
                    f"process_id: expected each number once, got two processes with {other}",
                    connection,
                )
            connections[other], all_facts[other] = connection, its_facts
        # Its own port is taken while the listener is open, so it cannot be this one.
        with _listener(host, 0) as free:
            address = f"{host}:{free.getsockname()[1]}"
    if differing := difference(all_facts):
        refuse(differing)
    for connection in connections.values():
        connection.send(address=address)
    return Star(0, connections, num_processes), address


def _listener(host: str, port: int) -> socket.socket:
    """A listening socket on the interface that the host's name stands for; on all where there is none."""
    last: OSError | None = None
    for family, address in (*_addresses(host), (socket.AF_INET, "")):
        try:
            return socket.create_server((address, port), family=family)
        except OSError as error:
            last = error
            if error.errno == 98 or isinstance(error, PermissionError):
                break
    assert last is not None
    raise InputError(
        f"coordinator: process 0 cannot listen on {host}:{port} ({os.strerror(last.errno or 0)}); "
        "is another process 0 running? Else choose another port"
    )


def _addresses(host: str) -> list[tuple[int, str]]:
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return [(family, str(address[0])) for family, _, _, _, address in found]
    return []


def difference(facts: dict[int, dict[str, str]]) -> str:
    """Where processes differ from the first, in one line; "" where they do not."""
    for other, its in facts.items():
        for name in sorted(facts[0].keys() | its.keys()):
            ours, theirs = facts[0].get(name), its.get(name)
            if ours != theirs:
                return (
                    f"{name}: expected the same on every process, got {_short(ours)} on process 0 "
                    f"and {_short(theirs)} on process {other}"
                )
    return ""


def _short(value: str | None) -> str:
    text = "nothing" if value is None else value
    return text if len(text) <= 100 else f"{text[:97]}..."
