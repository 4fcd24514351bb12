"""Connections of all processes to the first: joining, exchanging messages, and detecting lost processes.

A closed connection shows at once that a process died, and silence that its machine did, even while
this process is blocked in a collective, where no library reports it.
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
SILENCE_S = 40.0  # a process that is silent for this long counts as lost
LEAVE_S = 10.0  # time for the others to end before the first process ends
GREETING = "jaxvae"
MAX_BYTES = 2**24


class Connection:
    """Messages to and from one process: JSON, one per line."""

    def __init__(self, sock: socket.socket):
        self.socket = sock
        self.inbox: queue.Queue[str] = queue.Queue()
        self._sending = threading.Lock()
        self._rest = b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, **message: Any) -> None:
        """Send a message; if the process has ended it is dropped, and `receive` will report that."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def part(self) -> None:
        """Send no more; the other side can read everything sent, and then sees the end."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next message.

        Raises:
            OSError: nothing came within the timeout, or the other side has closed the connection.
            ValueError: the data received are not a message.
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
    """Connections in the shape of a star: the first process is connected to each of the others.

    Args:
        process_id: number of this process.
        connections: in the first process, one to each other process by number; in the others, one to 0.
        num_processes: number of processes.
    """

    def __init__(self, process_id: int, connections: dict[int, Connection], num_processes: int):
        self.process_id, self.num_processes = process_id, num_processes
        self.connections = connections
        self.advice = "start all of them again"
        self._ended = False
        self._ending = threading.Lock()
        self._listeners: list[threading.Thread] = []

    def watch(self) -> None:
        """Start threads that receive messages and detect lost processes."""
        self._listeners = [
            threading.Thread(target=self._listen, args=item, daemon=True)
            for item in self.connections.items()
        ]
        for thread in (*self._listeners, threading.Thread(target=self._ping, daemon=True)):
            thread.start()

    def gather(self, text: str) -> list[str]:
        """Gather the `text` of every process, in order of their numbers; wait for all of them."""
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
            time.sleep(60)  # a thread has printed the reason and will end this process
        self._tell(f"process {self.process_id} stopped: {line}", status)
        self._outlast()

    def finish(self) -> None:
        """Wait until all processes have finished; from then on a closed connection is not an error."""
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
        """Mark the star as ended, and return whether this call is the first to do so."""
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
                    self._end()  # here, since the end of the connection may follow immediately
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
        """Let the others end before the first process, which serves JAX's coordination: without it they would abort.

        Args:
            heard: the connection to which the current thread listens, if any.
        """
        if self.process_id:
            time.sleep(0.2)  # until the messages have been read: an exit may drop them
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
    """End the process from any thread: the main thread may be blocked forever."""
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
    """Wait until all processes are connected, and check that they have the same facts.

    Args:
        host: the host of the first process, as the others reach it.
        port: a free port there.
        num_processes: number of processes, this one included.
        process_id: number of this process.
        facts: name -> value, which must be the same on all.
        timeout_s: seconds to wait.

    Returns:
        The star, and an address on the first process's machine with a second free port.

    Raises:
        InputError: not all connect in time, or their facts differ; raised on every process.
    """
    deadline = time.monotonic() + timeout_s
    if process_id == 0:
        return _receive(host, port, num_processes, facts, deadline, timeout_s)
    connection = _connect(host, port, deadline, timeout_s)
    connection.send(hello=GREETING, process_id=process_id, num_processes=num_processes, facts=facts)
    try:
        # The first process waits equally long for the last one, and may have started after this one.
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
                connection.socket.close()  # not a process of this run
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
        # The listener still holds its port, so the system gives another one.
        with _listener(host, 0) as free:
            address = f"{host}:{free.getsockname()[1]}"
    if differing := difference(all_facts):
        refuse(differing)
    for connection in connections.values():
        connection.send(address=address)
    return Star(0, connections, num_processes), address


def _listener(host: str, port: int) -> socket.socket:
    """Return a listening socket on the interface of the host's name, or on all interfaces if that fails."""
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
    """Describe the first difference of a process from process 0 in one line; "" if there is none."""
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
