"""The part of the client that manages keys, certificates, certificate authorities and logged-in browsers."""

# ruff: noqa: PLC0415 - each call imports the types that it needs: all of them take long

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from broker.client.request_sender import RequestSender, encode_query, quote_segment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.schema.login import (
        AuthorityKeyView,
        AuthorityKind,
        KeyView,
        UserCertificateAnswer,
        UserCertificateRequest,
        UserCertificateView,
    )
    from broker.schema.services import SessionServiceView
    from broker.schema.web import BrowserView, LinkAnswer, LogoutAnswer


class AccessClient(RequestSender):
    """Calls about the access to sessions."""

    def keys(self) -> list[KeyView]:
        from broker.schema.login import KeyList

        return self._get("/v1/keys", KeyList).keys

    def add_key(self, public_key: str) -> KeyView:
        from broker.schema.login import KeyAdd, KeyView

        return self._send("POST", "/v1/keys", KeyView, KeyAdd(public_key=public_key))

    def remove_key(self, fingerprint: str) -> KeyView:
        from broker.schema.login import KeyView

        return self._send("DELETE", f"/v1/keys/{quote_segment(fingerprint)}", KeyView)

    def certificates(self) -> list[UserCertificateView]:
        """Return the caller's certificates that have not expired, including revoked ones."""
        from broker.schema.login import UserCertificateList

        return self._get("/v1/certificates", UserCertificateList).certificates

    def sign(self, request: UserCertificateRequest) -> UserCertificateAnswer:
        """Request a certificate for one of the caller's keys."""
        from broker.schema.login import UserCertificateAnswer

        return self._send("POST", "/v1/certificates", UserCertificateAnswer, request)

    def revoke(self, fingerprint: str | None = None) -> list[UserCertificateView]:
        """Revoke the certificates for that key, or all of the caller; return the revoked ones."""
        from broker.schema.login import UserCertificateList

        query = encode_query({} if fingerprint is None else {"fingerprint": fingerprint})
        return self._send("DELETE", "/v1/certificates" + query, UserCertificateList).certificates

    def authorities(self) -> list[AuthorityKeyView]:
        from broker.schema.login import AuthorityList

        return self._get("/v1/ca", AuthorityList).keys

    def rotate(self, kind: AuthorityKind, *, now: bool = False) -> AuthorityKeyView:
        """Announce an authority's next key, or make the announced key the signing key; for operators."""
        from broker.schema.login import AuthorityKeyView, RotateRequest

        return self._send("POST", f"/v1/ca/{kind}/rotate", AuthorityKeyView, RotateRequest(now=now))

    def retire(self, kind: AuthorityKind, fingerprint: str, *, now: bool = False) -> AuthorityKeyView:
        """Stop trusting a key of an authority; for operators."""
        from broker.schema.login import AuthorityKeyView, RetireRequest

        request = RetireRequest(fingerprint=fingerprint, now=now)
        return self._send("POST", f"/v1/ca/{kind}/retire", AuthorityKeyView, request)

    def make_link(self, target: Mapping[str, str] | None) -> LinkAnswer:
        """Request a link that logs a browser in, and leads to a service or to the portal.

        `target` has the fields of `broker.schema.web.Target`. The answer's fields are not validated: a person waits.
        """
        import json

        from broker.client.records import parse_record

        body = json.dumps({"target": target})
        return cast("LinkAnswer", parse_record(self._request("POST", "/v1/web/links", body)))

    def read_services(self, name: str) -> list[SessionServiceView]:
        """Return the services of a session that the controller knows, to choose from: they are not validated."""
        from broker.client.records import parse_records

        path = f"/v1/sessions/{quote_segment(name)}/services"
        return cast("list[SessionServiceView]", parse_records(self._request("GET", path), "services"))

    def browsers(self) -> list[BrowserView]:
        from broker.schema.web import BrowserList

        return self._get("/v1/web/browsers", BrowserList).browsers

    def log_browsers_out(self, browser_id: str | None) -> LogoutAnswer:
        """Log out the browser with that id, or all; return the ones that were logged in."""
        from broker.schema.web import LogoutAnswer

        path = "/v1/web/browsers" if browser_id is None else f"/v1/web/browsers/{quote_segment(browser_id)}"
        return self._send("DELETE", path, LogoutAnswer)
