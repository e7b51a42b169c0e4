"""The session that a host name means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidInputError
from broker.names import NAME_PATTERN
from broker.ssh.host_names import GatewayLogin, SessionHost, gateway_host

OWNERS = st.from_regex(r"\A[a-z_][a-z0-9_.-]{0,31}\Z")
NAMES = st.from_regex(rf"\A{NAME_PATTERN[1:-1]}\Z")
DOMAINS = st.sampled_from(["berth", "sessions.example.org"])

UNDERSTOOD = {
    "dev": ("me", "dev"),
    "dev.berth": ("me", "dev"),
    "DEV.Berth": ("me", "dev"),
    "berth": ("me", "berth"),
    "berth.berth": ("me", "berth"),
    "alice.dev.berth": ("alice", "dev"),
    "alice.smith.dev.berth": ("alice.smith", "dev"),
    "_svc_x.dev-2.berth": ("_svc_x", "dev-2"),
    "dev.berth.berth": ("dev", "berth"),
}


@pytest.mark.parametrize("text", UNDERSTOOD)
def test_names_are_read_from_the_right(text: str) -> None:
    host = SessionHost.parse(text, "berth", "me")
    assert (host.owner, host.name) == UNDERSTOOD[text]


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "berth.", ".berth", "dev.", ".dev", "dev.berth.", "..berth", ".dev.berth", "alice..berth",
        "alice.dev", "dev.example.org", "127.0.0.1", "::1", "localhost.localdomain", "-dev", "2dev", "_dev.berth",
        "dev_1", "dev berth", "dev\n", "dev\n.berth", "dev.berth\n", "dev\0", "*.berth", "de?.berth", "a/b.berth",
        "al ice.dev.berth", "a@dev.berth", "\u212a.berth", "dév.berth", f"{'a' * 40}.berth", f"{'a' * 33}.dev.berth",
        "x" * 10_000,
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="is not a session's host name") as caught:
        SessionHost.parse(text, "berth", "me")
    assert len(caught.value.message) < 150
    assert caught.value.message.isprintable()
    assert caught.value.message.isascii()


@given(owner=OWNERS, name=NAMES, domain=DOMAINS)
def test_the_canonical_name_means_the_same_to_everybody(owner: str, name: str, domain: str) -> None:
    host = SessionHost(owner, name)
    assert SessionHost.parse(host.canonical_name(domain), domain, "somebody") == host
    assert SessionHost.parse(host.canonical_name(domain).upper(), domain, "somebody") == host


@given(owner=OWNERS, name=NAMES, domain=DOMAINS)
def test_every_principal_means_this_session_to_its_owner_and_never_the_gateway(
    owner: str, name: str, domain: str
) -> None:
    host = SessionHost(owner, name)
    for principal in host.principals(domain):
        assert SessionHost.parse(principal, domain, owner) == host
        assert principal != gateway_host(domain)


@given(text=st.text(max_size=60), domain=DOMAINS)
def test_any_text_is_a_session_or_refused(text: str, domain: str) -> None:
    try:
        host = SessionHost.parse(text, domain, "me")
    except InvalidInputError:
        return
    assert host.canonical_name(domain).isascii()


def test_the_gateways_own_name_is_no_session() -> None:
    with pytest.raises(InvalidInputError):
        SessionHost.parse(gateway_host("berth"), "berth", "me")


@pytest.mark.parametrize(
    ("text", "user", "session"),
    [
        ("alice", "alice", ""),
        ("alice+alice.dev.berth", "alice", "dev"),
        ("alice+dev.berth", "alice", "dev"),
        ("alice+DEV", "alice", "dev"),
        ("alice+bob.dev.berth", "alice", ""),
        ("alice+%h", "alice", ""),
        ("alice+", "alice", ""),
        ("alice+dev+ci", "alice", ""),
        ("+dev", "", "dev"),
    ],
)
def test_login_name_at_the_gateway_may_name_the_users_own_session(text: str, user: str, session: str) -> None:
    login = GatewayLogin.parse(text)
    assert (login.user, login.session_name("berth")) == (user, session)
