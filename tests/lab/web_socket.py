"""A WebSocket that stays open: `PORT HOST ORIGIN COOKIE` prints the status, and at its end when that was.

Runs on the lab's login node, with Python's standard library alone. Whatever the server sends is read and dropped.
"""

from __future__ import annotations

import base64
import os
import socket
import sys
import time


def main() -> None:
    port, host, origin, cookie = sys.argv[1:]
    try:
        connection = socket.create_connection(("127.0.0.1", int(port)), timeout=60)
    except ConnectionRefusedError:
        print("0", flush=True)
        return
    fields = {
        "Host": host,
        "Origin": origin,
        "Cookie": cookie,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "tty",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.sendall(f"GET /ws HTTP/1.1\r\n{head}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (piece := connection.recv(1)):
        answer += piece
    print(answer.split(b" ", 2)[1].decode() if answer else "0", flush=True)
    if b" 101 " not in answer:
        return
    connection.settimeout(None)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    print(f"{time.time():.3f}", flush=True)


main()
