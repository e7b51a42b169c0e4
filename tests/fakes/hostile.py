"""Bytes of a stranger before a login at an ssh server: the beginning of a good one, and odd things (RFC 4253)."""

from __future__ import annotations

VERSION = b"SSH-2.0-hostile\r\n"
IGNORE, DEBUG, UNIMPLEMENTED, DISCONNECT, KEXINIT, NEWKEYS, KEX_ECDH_INIT = 2, 4, 3, 1, 20, 21, 30


def packet(kind: int, payload: bytes = b"") -> bytes:
    """Return a packet of RFC 4253, section 6, without encryption."""
    body = bytes([kind]) + payload
    padding = 8 - (len(body) + 5) % 8
    padding += 8 if padding < 4 else 0
    return (1 + len(body) + padding).to_bytes(4, "big") + bytes([padding]) + body + bytes(padding)


def names(*lists: str) -> bytes:
    return b"".join(len(each).to_bytes(4, "big") + each.encode() for each in lists)


def kexinit(kex: str = "curve25519-sha256,kex-strict-c-v00@openssh.com") -> bytes:
    cipher = "aes128-gcm@openssh.com"
    lists = names(kex, "ssh-ed25519", cipher, cipher, "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", "")
    return packet(KEXINIT, bytes(16) + lists + bytes(5))


HELLO = VERSION + kexinit() + packet(KEX_ECDH_INIT, (32).to_bytes(4, "big") + bytes(range(32)))
"""All that a client says before keys are exchanged."""

ODD: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(5000),
    "no ssh": b"GET / HTTP/1.1\r\nHost: berth\r\n\r\n",
    "ssh 1": b"SSH-1.5-old\r\n",
    "a version without end": b"SSH-2.0-" + b"x" * 100_000,
    "a version that is no text": b"SSH-2.0-\xff\xfe\x00\r\n",
    "a long version": b"SSH-2.0-" + b"x" * 300 + b"\r\n",
    "many lines before the version": b"hello\r\n" * 5000,
    "a packet of no length": VERSION + bytes(16),
    "a packet of four gigabytes": VERSION + b"\xff\xff\xff\xff" + bytes(1000),
    "a packet as long as is allowed, and no more of it": VERSION + (35000).to_bytes(4, "big"),
    "a padding longer than the packet": VERSION + b"\x00\x00\x00\x0c\xff" + bytes(11),
    "a kexinit that ends early": VERSION + packet(KEXINIT, bytes(20)),
    "a name list of four gigabytes": VERSION + packet(KEXINIT, bytes(16) + b"\xff\xff\xff\xff"),
    "a name list of commas": VERSION + packet(KEXINIT, bytes(16) + names("," * 30_000)),
    "no kex in common": VERSION + kexinit("diffie-hellman-group1-sha1"),
    "kexinit after kexinit": VERSION + kexinit() * 50,
    "new keys before any": VERSION + kexinit() + packet(NEWKEYS),
    "a point at infinity": VERSION + kexinit() + packet(KEX_ECDH_INIT, (32).to_bytes(4, "big") + bytes(32)),
    "an empty point": VERSION + kexinit() + packet(KEX_ECDH_INIT, bytes(4)),
    "a login before keys": VERSION + packet(50, names("root", "ssh-connection", "none")),
    "a channel before a login": VERSION + kexinit() + packet(90, names("session") + bytes(12)),
    "a message that nobody knows": VERSION + kexinit() + packet(255),
    "disconnect at once": VERSION + packet(DISCONNECT, (11).to_bytes(4, "big") + names("bye", "")),
    "ignore without end": VERSION + kexinit("curve25519-sha256") + packet(IGNORE, bytes(4)) * 20_000,
    "debug without end": VERSION + kexinit("curve25519-sha256") + packet(DEBUG, bytes(9)) * 20_000,
    "unimplemented without end": VERSION + packet(UNIMPLEMENTED, bytes(4)) * 20_000,
}
