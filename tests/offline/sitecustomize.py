"""No process of the tests reaches beyond this machine: a Python that starts with this folder on its path is offline.

Python imports `sitecustomize` when it starts. `tests/conftest.py` imports it and puts its folder on PYTHONPATH, so that
processes of the tests are offline, too. Not covered are programs that are no Python (git, Chromium, SLURM), extension
modules with sockets of their own, and Pythons started without PYTHONPATH or with `-I`.

An audit hook sees each attempt before the system does: no packet leaves, and no name is asked for.
"""

import ipaddress
import sys

BLOCKED: list[str] = []
"""Attempts in this process, since code may pass over the error."""
LOCAL_NAMES = (None, "", "localhost", b"localhost")


class NetworkError(OSError):
    """An attempt to reach beyond this machine."""


def forbid(event, arguments):
    """Raise `NetworkError` for a connection, a packet or a look-up of a name beyond the loopback."""
    if not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path is that of a socket of this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if not _is_here(host):
        BLOCKED.append(f"{event}: {host}")
        raise NetworkError(f"{event} to {host!r}: tests must not reach beyond this machine.")


def _is_here(host):
    if host in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:  # a name, which would be asked for
        return False


sys.addaudithook(forbid)
