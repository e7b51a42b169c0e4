"""The registry's tables of web access: logins of browsers, and their visits. Times are seconds since the epoch."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from broker.schema.connections import GuestVisitView
from broker.schema.web import BrowserView


class Delegation(SQLModel, table=True):
    """The login of one browser: what berth-web may do for its user until `expires_at`."""

    id: str = Field(primary_key=True, max_length=26)
    secret_hash: str = Field(max_length=64, unique=True)
    """SHA-256 of the secret in the browser's cookie, in hexadecimal digits."""
    user: str = Field(max_length=32, index=True)
    uid: int = Field(sa_type=BigInteger)
    """The uid of the process that has asked for the link. Another account of the same name is another user."""
    browser: str = Field(max_length=200)
    """The User-Agent header of the browser."""
    address: str = Field(max_length=64)
    created_at: float
    used_at: float
    expires_at: float = Field(index=True)
    issuer: str = Field(default="", max_length=2048)
    """The OpenID provider that has proved the login; empty for a link. Then the next two are empty too."""
    subject: str = Field(default="", max_length=255, index=True)
    """The claim `sub`: the person, as the provider knows them."""
    provider_session: str = Field(default="", max_length=255)
    """The claim `sid`: the session at the provider; empty if it sends none."""

    def view(self) -> BrowserView:
        """Return the login as the API shows it to its user."""
        stored = self.model_dump(include=set(BrowserView.model_fields))
        return BrowserView(login="provider" if self.issuer else "link", **stored)


class Visit(SQLModel, table=True):
    """The permission of one browser to use one service. It ends with the delegation and with the session."""

    id: str = Field(primary_key=True, max_length=26)
    secret_hash: str = Field(max_length=64, unique=True)
    """SHA-256 of the secret that berth-web has, in hexadecimal digits."""
    delegation_id: str = Field(foreign_key="delegation.id", max_length=26, index=True)
    user: str = Field(max_length=32, index=True)
    session_id: str = Field(max_length=26, index=True)
    service: str = Field(max_length=39)
    created_at: float
    expires_at: float

    def guest_view(self) -> GuestVisitView:
        """Return the visit as the API shows it to the session's owner."""
        return GuestVisitView(
            user=self.user, service=self.service, began_at=self.created_at, expires_at=self.expires_at
        )


class UsedLogoutToken(SQLModel, table=True):
    """A logout token of the OpenID provider that was used, so that it is not used again."""

    token_hash: str = Field(primary_key=True, max_length=64)
    """SHA-256 of issuer and token id, in hexadecimal digits."""
    forget_at: float = Field(index=True)
    """From then on, the token is too old anyway."""
