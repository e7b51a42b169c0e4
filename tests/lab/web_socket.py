"""A client of ttyd's WebSocket, which runs on the lab's login node with Python's standard library alone.

`hold PORT HOST ORIGIN COOKIE` prints the status of the handshake, drops all messages, and prints the time of the end.
`type PORT HOST ORIGIN LINE END` types a line, and prints the status and the terminal's text up to the word END.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import sys
import time


def connect(port: str, host: str, origin: str, cookie: str = "") -> socket.socket | None:
    """Print the status of the handshake, 0 without an answer; return the connection if it is 101."""
    try:
        connection = socket.create_connection(("127.0.0.1", int(port)), timeout=60)
    except ConnectionRefusedError:
        print("0", flush=True)
        return None
    fields = {
        "Host": host,
        "Origin": origin,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "tty",
    }
    if cookie:
        fields["Cookie"] = cookie
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.sendall(f"GET /ws HTTP/1.1\r\n{head}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (piece := connection.recv(1)):
        answer += piece
    status = answer.split(b" ", 2)[1].decode() if answer else "0"
    print(status, flush=True)
    return connection if status == "101" else None


def hold(connection: socket.socket) -> None:
    """Drop all messages until the connection ends, and print the time, in seconds since the epoch."""
    connection.settimeout(None)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    print(f"{time.time():.3f}", flush=True)


def type_line(connection: socket.socket, line: str, end: str) -> None:
    """Type a line, and print the terminal's text up to the word `end`."""
    connection.sendall(frame(json.dumps({"AuthToken": "", "columns": 80, "rows": 24}).encode()))
    connection.sendall(frame(b"0" + line.encode() + b"\r"))
    shown = b""
    while end.encode() not in shown:
        message = read_frame(connection)
        shown += message[1:] if message[:1] == b"0" else b""
    sys.stdout.write(shown.decode(errors="replace"))


def frame(data: bytes) -> bytes:
    """Return a binary message of a client (RFC 6455, section 5.2), masked with zeros."""
    assert len(data) < 126
    return bytes([0x82, 0x80 | len(data)]) + b"\0\0\0\0" + data


def read_frame(connection: socket.socket) -> bytes:
    """Return the content of a server's next frame."""
    length = read_exactly(connection, 2)[1]
    if length == 126:
        (length,) = struct.unpack("!H", read_exactly(connection, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", read_exactly(connection, 8))
    return read_exactly(connection, length)


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise SystemExit("the connection has ended")
        data += piece
    return data


def main() -> None:
    action, port, host, origin, *words = sys.argv[1:]
    if action == "hold":
        if connection := connect(port, host, origin, *words):
            hold(connection)
    elif connection := connect(port, host, origin):
        type_line(connection, *words)


main()
