"""Everything that an authenticated user may not do at the gateway, which is everything but one thing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncssh
from asyncssh.packet import Boolean, String, UInt32

from tests.fakes.gateway_world import World, play

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


async def _open_raw(client: asyncssh.SSHClientConnection, kind: bytes) -> None:
    channel = client.create_tcp_channel()
    await channel._open(kind)


async def _global(client: asyncssh.SSHClientConnection, name: bytes, *arguments: bytes) -> None:
    kind, _ = await client._make_global_request(name, *arguments)
    if kind != asyncssh.constants.MSG_REQUEST_FAILURE:
        return
    raise asyncssh.ChannelListenError("refused")


FORBIDDEN: dict[str, Callable[[asyncssh.SSHClientConnection], Awaitable[object]]] = {
    "shell": lambda c: c.create_process(),
    "exec": lambda c: c.run("true"),
    "sftp": lambda c: c.start_sftp_client(),
    "subsystem": lambda c: c.create_process(subsystem="netconf"),
    "pty": lambda c: c.create_process(term_type="xterm"),
    "x11 in a session": lambda c: c.create_process(x11_forwarding=True),
    "agent in a session": lambda c: c.create_process("true"),
    "an address": lambda c: c.open_connection("127.0.0.1", 22),
    "an address and port": lambda c: c.open_connection("127.0.0.1", 2222),
    "localhost": lambda c: c.open_connection("localhost", 22),
    "an empty name": lambda c: c.open_connection("", 22),
    "a very long name": lambda c: c.open_connection("a" * 5000, 22),
    "another user's session": lambda c: c.open_connection("bob.dev.berth", 22),
    "unix socket": lambda c: c.open_unix_connection("/run/berth/api.sock"),
    "tun": lambda c: c.open_tun(),
    "tap": lambda c: c.open_tap(),
    "remote forward": lambda c: c.forward_remote_port("", 0, "localhost", 22),
    "remote forward of a port": lambda c: c.forward_remote_port("0.0.0.0", 8022, "localhost", 22),  # noqa: S104 - refused
    "remote unix forward": lambda c: c.forward_remote_path("/tmp/x", "/tmp/y"),  # noqa: S108 - refused
    "channel x11": lambda c: _open_raw(c, b"x11"),
    "channel agent": lambda c: _open_raw(c, b"auth-agent@openssh.com"),
    "channel forwarded-tcpip": lambda c: _open_raw(c, b"forwarded-tcpip"),
    "channel forwarded-streamlocal": lambda c: _open_raw(c, b"forwarded-streamlocal@openssh.com"),
    "channel nobody knows": lambda c: _open_raw(c, b"berth-test@example.org"),
    "channel session": lambda c: _open_raw(c, b"session"),
    "request tcpip-forward": lambda c: _global(c, b"tcpip-forward", String("localhost"), UInt32(8022)),
    "request cancel-tcpip-forward": lambda c: _global(c, b"cancel-tcpip-forward", String("localhost"), UInt32(8022)),
    "request streamlocal-forward": lambda c: _global(c, b"streamlocal-forward@openssh.com", String("/tmp/x")),  # noqa: S108
    "request cancel-streamlocal-forward": lambda c: _global(
        c,
        b"cancel-streamlocal-forward@openssh.com",
        String("/tmp/x"),  # noqa: S108 - refused
    ),
    "request nobody knows": lambda c: _global(c, b"berth-test@example.org"),
    "request no-more-sessions": lambda c: _global(c, b"no-more-sessions@openssh.com"),
    "request hostkeys-prove": lambda c: _global(c, b"hostkeys-prove-00@openssh.com", String("any key")),
}


def test_everything_but_a_forward_to_a_session_is_refused(place: Path) -> None:
    async def scene(w: World) -> None:
        for what, attempt in FORBIDDEN.items():
            async with await w.client() as client:
                refused = False
                try:
                    await attempt(client)
                except (asyncssh.ChannelOpenError, asyncssh.ChannelListenError):
                    refused = True
                assert refused, what
        assert (await w.ssh("dev.berth", "true")).code == 0

    play(place, scene)


CHANNEL_REQUESTS: dict[str, tuple[bytes, ...]] = {
    "pty-req": (String("xterm"), UInt32(80), UInt32(24), UInt32(0), UInt32(0), String(b"\0")),
    "x11-req": (Boolean(False), String("MIT-MAGIC-COOKIE-1"), String("00"), UInt32(0)),
    "auth-agent-req@openssh.com": (),
    "env": (String("LD_PRELOAD"), String("x.so")),
    "shell": (),
    "exec": (String("id"),),
    "subsystem": (String("sftp"),),
    "window-change": (UInt32(80), UInt32(24), UInt32(0), UInt32(0)),
    "xon-xoff": (Boolean(False),),
    "signal": (String("KILL"),),
    "break": (UInt32(500),),
    "exit-status": (UInt32(0),),
    "exit-signal": (String("KILL"), Boolean(False), String(""), String("")),
    "eow@openssh.com": (),
    "berth-test@example.org": (),
}
"""The channel requests of RFC 4254 and of OpenSSH's PROTOCOL, and one that does not exist."""


def test_a_forward_takes_bytes_and_no_requests(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            reader, writer = await client.open_connection(w.canonical, 22)
            for request, arguments in CHANNEL_REQUESTS.items():
                done = await writer.channel._make_request(request.encode(), *arguments)
                assert done is False, request
            assert (await reader.readline()).startswith(b"SSH-2.0-"), "the forward is as good as before"

    play(place, scene)


def test_the_lists_know_whatever_the_library_could_do() -> None:
    """A new version of asyncssh that can do more must be looked at."""
    channels = _handled(asyncssh.SSHServerConnection, "open")
    assert channels - {"channel", "direct_tcpip"} == {
        "session",
        "direct_streamlocal_at_openssh_dot_com",
        "tun_at_openssh_dot_com",
    }
    requests = _handled(asyncssh.SSHServerConnection, "global_request")
    assert requests - {"keepalive_at_openssh_dot_com", "hostkeys_00_at_openssh_dot_com"} == {
        "tcpip_forward",
        "cancel_tcpip_forward",
        "streamlocal_forward_at_openssh_dot_com",
        "cancel_streamlocal_forward_at_openssh_dot_com",
        "hostkeys_prove_00_at_openssh_dot_com",
    }
    on_channels = {
        each.replace("_at_", "@").replace("_dot_", ".").replace("_", "-")
        for each in _handled(asyncssh.SSHServerChannel, "request")
    }
    assert on_channels - CHANNEL_REQUESTS.keys() == {"keepalive@openssh.com"}


def _handled(what: type, suffix: str) -> set[str]:
    names = (re.fullmatch(rf"_process_(.+)_{suffix}", name) for name in dir(what))
    return {name[1] for name in names if name and not (suffix == "request" and name[1].endswith("_global"))}
