"""Whether the ports that a machine publishes are free here, asked before it boots."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from vmm.errors import WrongState
from vmm.spec import Publish


def check(ports: Iterable[Publish]) -> None:
    """Raise WrongState for one that cannot be listened on."""
    for one in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((one.host_address, one.host_port))
                probe.listen(1)
            except OSError as error:
                raise WrongState(f"port {_why(one, error)}") from None


def _why(one: Publish, error: OSError) -> str:
    place = f"{one.host_address}:{one.host_port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is taken by another program; 'ss -ltnp sport = :{one.host_port}' shows which"
    return f"{place} cannot be published: {error.strerror}"
