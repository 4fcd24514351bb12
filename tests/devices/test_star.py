"""How processes find each other and part, with threads in their place."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import jaxvae as jv
from jaxvae import hosts
from jaxvae.hosts import star as stars
from jaxvae.hosts.runtime_log import without_greetings
from jaxvae.hosts.star import Connection, Star, meet
from jaxvae.types import InputError
from tests.support.refusals import refused

FACTS = {"code": "abc", "jax": "1"}


MET = []


@pytest.fixture(autouse=True)
def parted():
    """What has met parts at the end of a test."""
    yield
    connections = [one for star in MET for one in star.connections.values()]
    for star in MET:
        star._end()
    for connection in connections:
        connection.part()
    for connection in connections:
        connection.socket.close()
    MET.clear()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def meeting(*numbers, of=None, facts=None, timeout_s=5.0):
    """What each of these processes gets from `meet`: its star, or the line of its refusal."""
    address = free_port()

    def one(i):
        try:
            star, _ = meet(
                "127.0.0.1",
                address,
                num_processes=(of or {}).get(i, len(numbers)),
                process_id=i,
                facts=(facts or {}).get(i, FACTS),
                timeout_s=timeout_s,
            )
            MET.append(star)
            return star
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


def test_three_meet_and_say_things_in_their_order():
    three = meeting(0, 1, 2)
    for one in three:
        one.watch()
    with ThreadPoolExecutor(3) as pool:
        for word in ("a", "é\n", ""):
            said = list(
                pool.map(lambda star, word=word: star.gather(f"{star.process_id}{word}"), three)
            )
            assert said == [[f"{i}{word}" for i in range(3)]] * 3
        list(pool.map(Star.finish, three))


@pytest.mark.parametrize(
    ("numbers", "options", "expected"),
    [
        ((0, 1, 1), {}, "process_id: expected each number once, got two processes with 1"),
        ((0, 1), {"of": {1: 3}}, "num_processes: expected the same on every process, got 2"),
        (
            (0, 1, 2),
            {"facts": {2: FACTS | {"jax": "2"}}},
            "jax: expected the same on every process, got 1 on process 0 and 2 on process 2",
        ),
        ((0, 1), {"facts": {1: {"code": "abc"}}}, "got 1 on process 0 and nothing on process 1"),
    ],
)
def test_those_that_differ_are_all_refused_alike(numbers, options, expected):
    lines = meeting(*numbers, **options)
    assert len(set(lines)) == 1
    assert expected in lines[0]


def test_one_that_does_not_come():
    lines = meeting(0, 1, of={0: 3, 1: 3}, timeout_s=0.5)
    assert len(set(lines)) == 1
    assert "process 2 did not come to 127.0.0.1:" in lines[0]
    assert "within 0.5 s" in lines[0]


def test_nobody_where_the_first_should_be():
    begin = time.monotonic()
    with refused("coordinator", "no answer from 127.0.0.1:", "0.3 s", "is process 0 running"):
        jv.parallel.initialize(f"127.0.0.1:{free_port()}", 2, 1, connect_timeout_s=0.3)
    assert time.monotonic() - begin < 5


def test_somebody_else_where_the_first_should_be():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            with other.accept()[0] as taken:
                taken.sendall(b"HTTP/1.0 400\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with refused("coordinator", "does not answer as process 0"):
            jv.parallel.initialize(f"127.0.0.1:{other.getsockname()[1]}", 2, 1)
        thread.join()
        with refused("coordinator", "cannot listen", "another process 0"):
            jv.parallel.initialize(f"127.0.0.1:{other.getsockname()[1]}", 2, 0)


def test_a_stranger_is_left_alone():
    address = free_port()
    meet_there = {"num_processes": 2, "facts": FACTS, "timeout_s": 5.0}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, "127.0.0.1", address, process_id=0, **meet_there)
        while True:
            try:
                stranger = socket.create_connection(("127.0.0.1", address))
                break
            except OSError:
                time.sleep(0.01)
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        second = pool.submit(meet, "127.0.0.1", address, process_id=1, **meet_there)
        MET.extend(each.result()[0] for each in (first, second))
        stranger.close()


@pytest.fixture
def ended(monkeypatch):
    """What processes say when they end, in the place of ending."""
    lines = []
    monkeypatch.setattr(stars, "LEAVE_S", 0.1)  # as no thread's connection ends when it does
    monkeypatch.setattr(stars, "_say_and_exit", lambda *said: lines.append(said))
    return lines


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lost_process_ends_all_others(ended):
    three = meeting(0, 1, 2)
    for one in three[:2]:
        one.advice = "go on"
        one.watch()
    three[2].connections[0].socket.close()
    wait_until(lambda: len(ended) == 2)
    assert ended == [("process 2 of 3 was lost: it has gone; go on", 1)] * 2


def test_a_silent_process_is_lost_and_one_that_pings_is_not(ended, monkeypatch):
    monkeypatch.setattr(stars, "SILENCE_S", 0.4)
    monkeypatch.setattr(stars, "PING_S", 0.1)
    both = meeting(0, 1)
    for one in both:
        one.watch()
    time.sleep(1.0)
    assert not ended
    both[1]._end()  # it pings no more
    wait_until(lambda: ended)
    assert "process 1 of 2 was lost: it said nothing for 0.4 s" in ended[0][0]


def test_one_that_stops_says_why_and_is_not_called_lost(ended):
    three = meeting(0, 1, 2)
    for one in three:
        one.watch()
    three[1].leave("no space left", 2)
    wait_until(lambda: len(ended) == 2)
    advice = "start all of them again"
    assert ended == [(f"process 1 stopped: no space left; {advice}", 2)] * 2


def test_messages_that_come_in_pieces():
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = socket.create_connection(server.getsockname())
        one, _ = server.accept()
    connection = Connection(one)
    line = json.dumps({"text": "x" * 10}).encode()
    other.sendall(line[:5])
    threading.Timer(0.05, other.sendall, [line[5:] + b"\n" + line + b"\n[]\n"]).start()
    assert [connection.receive(5)["text"] for _ in range(2)] == ["x" * 10] * 2
    with pytest.raises(ValueError, match="not a message"):
        connection.receive(5)
    other.close()
    with pytest.raises(ConnectionError):
        connection.receive(5)
    one.close()


def test_arguments_of_initialize(monkeypatch):
    with refused("process_id", "0 to 1", "got 2"):
        jv.parallel.initialize("127.0.0.1:1", 2, 2)
    with refused("process_id", "got -1"):
        jv.parallel.initialize("127.0.0.1:1", 2, -1)
    with refused("num_processes", "at least 1"):
        jv.parallel.initialize("127.0.0.1:1", 0, 0)
    for wrong in ("127.0.0.1", "host:", ":80", "host:x", "host:70000"):
        with refused("coordinator", "HOST:PORT", repr(wrong)):
            jv.parallel.initialize(wrong, 2, 0)
    with refused("connect_timeout_s", "more than 0"):
        jv.parallel.initialize("127.0.0.1:1", 2, 0, connect_timeout_s=0)
    with refused("coordinator", "expected where no SLURM"):
        jv.parallel.initialize(num_processes=2, process_id=0)


def test_what_slurm_says(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "70000",
        "SLURM_STEP_NODELIST": "node[3-4]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    coordinator, *numbers = hosts._detected(None, None, None, 1.0)
    assert coordinator.startswith("node3:")
    assert numbers == [2, 1]
    assert hosts._detected("other:1", None, None, 1.0)[0] == "other:1"


def test_one_process_alone():
    assert (hosts.count(), hosts.is_first(), hosts.gather("x")) == (1, True, ["x"])
    assert hosts.together(lambda: 3) == 3
    hosts.require_same({"a": "1"})
    hosts.finish()


WHOLE = (
    b"[Gloo] Rank 0 is connected to 3 peer ranks. Expected number of connected peer ranks is : 3\n"
)
PIECES = (
    b"[Gloo] Rank [Gloo] Rank 10 is connected to 3 is connected to 3 peer ranks. peer ranks. \n\n"
)


def check_greetings(function):
    """Greetings go, also those of threads that write between one another's; what else is said stays."""
    said = b"F1128 rank 3 is lost\nGloo: connection closed by peer\n"
    assert function(WHOLE + said) == said
    assert function(PIECES + said + WHOLE[44:]) == said


def test_greetings_are_left_out():
    check_greetings(without_greetings)


def test_check_of_greetings_rejects_their_first_word_alone():
    def by_start(text):
        lines = text.splitlines(keepends=True)
        return b"".join(line for line in lines if not line.startswith(b"[Gloo] Rank"))

    with pytest.raises(AssertionError):
        check_greetings(by_start)
