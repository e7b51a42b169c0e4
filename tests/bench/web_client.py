"""A client of web access for the benchmarks, in the login node's network.

    web_client.py first-byte PORT COUNT HEADER…      print the median time to the first byte of an answer, in ms
    web_client.py messages PORT SECONDS HEADER…      print how many WebSocket messages a second come back

The headers are those of each request. Standard library only.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import time

CONNECTIONS = 32
PAYLOAD_BYTES = 64
WARM_UP = 20
"""Requests that are not counted: the first one makes a connection behind the proxy."""
TIMEOUT_S = 30.0
PAUSE_S = 0.002
"""Between two lone requests."""


def first_byte(port: int, count: int, headers: list[str]) -> float:
    """Send one request after the other on one connection."""
    request = "\r\n".join(["GET / HTTP/1.1", *headers, "", ""]).encode()
    times = []
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(WARM_UP + count):
            began = time.perf_counter()
            connection.sendall(request)
            answer = connection.recv(1)
            took = time.perf_counter() - began
            answer += _rest(connection, answer)
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"no answer: {answer[:200]!r}")
            if number >= WARM_UP:
                times.append(took)
            time.sleep(PAUSE_S)
    return statistics.median(times) * 1000


def _rest(connection: socket.socket, begun: bytes) -> bytes:
    """The rest of an answer with a length."""
    data = begun
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(lengths[0]):
        body += connection.recv(65536)
    return (head + b"\r\n\r\n" + body)[len(begun) :]


class _Typist(asyncio.Protocol):
    """A WebSocket that sends a message when the last one has come back."""

    def __init__(self, head: bytes, ready: asyncio.Queue[_Typist]) -> None:
        self.count = 0
        self._head = head
        self._ready = ready
        self._left = -1
        """Bytes of the present echo that are missing; -1 before the answer to the handshake."""
        self._frame = bytes((0x82, 0x80 | PAYLOAD_BYTES)) + bytes(4) + b"x" * PAYLOAD_BYTES
        """Its mask is zero, so the payload is as it is (RFC 6455, section 5.3)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._head)

    def send(self) -> None:
        self._left = 2 + PAYLOAD_BYTES
        self._transport.write(self._frame)

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            if b" 101 " not in data.partition(b"\r\n")[0] or not data.endswith(b"\r\n\r\n"):
                raise SystemExit(f"no WebSocket: {data[:200]!r}")
            self._ready.put_nowait(self)
            return
        self._left -= len(data)
        if self._left == 0:
            self.count += 1
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc


async def messages(port: int, seconds: float, headers: list[str]) -> float:
    """Let all connections exchange messages at once."""
    lines = [
        "GET /ws HTTP/1.1",
        *headers,
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    ready: asyncio.Queue[_Typist] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: _Typist(head, ready), "127.0.0.1", port)
    async with asyncio.timeout(TIMEOUT_S):
        typists = [await ready.get() for _ in range(CONNECTIONS)]
    for each in typists:
        each.send()
    await asyncio.sleep(seconds / 4)
    before, began = sum(each.count for each in typists), time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (sum(each.count for each in typists) - before) / (time.perf_counter() - began)
    if not all(each.count for each in typists):
        raise SystemExit("a connection has no echo")
    return rate


def main(what: str, port: str, amount: str, *headers: str) -> None:
    if what == "first-byte":
        print(first_byte(int(port), int(amount), list(headers)))
    else:
        print(asyncio.run(messages(int(port), float(amount), list(headers))))


if __name__ == "__main__":
    main(*sys.argv[1:])
