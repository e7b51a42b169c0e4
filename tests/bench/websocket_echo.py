"""A service that echoes WebSocket messages of at most 125 bytes (RFC 6455), on the Unix socket $BERTH_SOCKET."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re

ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
HEAD_BYTES = 6
"""Of a masked frame with a short length: two bytes, and the mask."""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\necho\n"


class Echo(asyncio.Protocol):
    """One connection: answers to requests, and after an upgrade the echo."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""
        self._is_websocket = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_websocket and b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._answer(head)
        if self._is_websocket:
            self._echo()

    def _answer(self, head: bytes) -> None:
        key = re.search(rb"\r\nsec-websocket-key: *(\S+)", head, re.IGNORECASE)
        if key is None:
            self._transport.write(ANSWER)
            return
        accept = base64.b64encode(hashlib.sha1(key[1] + ACCEPT, usedforsecurity=False).digest())
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
        )
        self._is_websocket = True

    def _echo(self) -> None:
        frames, at, data = [], 0, self._buffer
        while at + HEAD_BYTES <= len(data) and (end := at + HEAD_BYTES + (data[at + 1] & 127)) <= len(data):
            mask, payload = data[at + 2 : at + 6], data[at + HEAD_BYTES : end]
            if mask != bytes(4):
                payload = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
            frames.append(bytes((data[at], len(payload))) + payload)
            at = end
        self._buffer = data[at:]
        if frames:
            self._transport.write(b"".join(frames))


async def main() -> None:
    server = await asyncio.get_running_loop().create_unix_server(Echo, os.environ["BERTH_SOCKET"])
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
