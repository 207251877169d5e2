"""The suite needs no network: whatever reaches beyond this machine fails, before a packet leaves."""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.offline import sitecustomize
from tests.offline.sitecustomize import NetworkError

ELSEWHERE = "192.0.2.1"  # reserved for documentation (RFC 5737): nobody is there


@pytest.fixture
def expected():
    """Attempts of this test are meant, and do not fail it."""
    yield
    assert sitecustomize.BLOCKED
    sitecustomize.BLOCKED.clear()


def connect():
    with socket.socket() as one:
        one.settimeout(0.1)
        one.connect((ELSEWHERE, 80))


def connect_ex():
    with socket.socket() as one:
        one.settimeout(0.1)
        one.connect_ex((ELSEWHERE, 80))


def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"", (ELSEWHERE, 53))


def send_message():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendmsg([b""], [], 0, (ELSEWHERE, 53))


def look_up():
    socket.getaddrinfo("example.org", 80)


def look_up_the_old_way():
    socket.gethostbyname("example.org")


@pytest.mark.parametrize("attempt", [connect, connect_ex, send, send_message, look_up, look_up_the_old_way])
def test_nothing_leaves_this_machine(expected, attempt):
    with pytest.raises(NetworkError, match="tests must not reach beyond this machine"):
        attempt()


def test_libraries_are_covered(expected):
    with pytest.raises(OSError, match="tests must not reach beyond"):
        urllib.request.urlopen(f"http://{ELSEWHERE}/", timeout=0.1)


def test_the_loopback_is_open(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.sendall(b"x")
        with server.accept()[0] as other:
            assert other.recv(1) == b"x"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        client.connect(str(tmp_path / "socket"))


def test_processes_of_the_tests_are_offline_too():
    code = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), timeout=0.1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert "tests must not reach beyond this machine" in done.stderr
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0].endswith("offline")
