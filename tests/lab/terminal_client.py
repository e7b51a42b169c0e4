"""A browser's part of ttyd's protocol: `PORT HOST ORIGIN COMMAND END` types a line.

Runs on the lab's login node, with Python's standard library alone. It prints the status of the handshake, and then what
the terminal shows, up to the word END.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import sys


def frame(data: bytes) -> bytes:
    """Return a binary message of a client (RFC 6455, section 5.2), masked with zeros."""
    assert len(data) < 126
    return bytes([0x82, 0x80 | len(data)]) + b"\0\0\0\0" + data


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise SystemExit("the connection has ended")
        data += piece
    return data


def read_frame(connection: socket.socket) -> bytes:
    """Return the content of a server's next frame."""
    length = read_exactly(connection, 2)[1]
    if length == 126:
        (length,) = struct.unpack("!H", read_exactly(connection, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", read_exactly(connection, 8))
    return read_exactly(connection, length)


def main() -> None:
    port, host, origin, command, end = sys.argv[1:]
    connection = socket.create_connection(("127.0.0.1", int(port)), timeout=60)
    fields = {
        "Host": host,
        "Origin": origin,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "tty",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.sendall(f"GET /ws HTTP/1.1\r\n{head}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(1)
        if not piece:
            break
        answer += piece
    status = answer.split(b"\r\n", 1)[0].decode()
    sys.stdout.write(f"{status or 'closed'}\n")
    if " 101 " not in status:
        return
    connection.sendall(frame(json.dumps({"AuthToken": "", "columns": 80, "rows": 24}).encode()))
    connection.sendall(frame(b"0" + command.encode() + b"\r"))
    shown = b""
    while end.encode() not in shown:
        message = read_frame(connection)
        shown += message[1:] if message[:1] == b"0" else b""
    sys.stdout.write(shown.decode(errors="replace"))


main()
