"""Routes for keys and certificates, and for the requests of the gateway."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query

from broker.controller.api.dependencies import Gone, Services, Who, require_administrator, require_gateway
from broker.schema.connections import (
    GatewayGuests,
    GatewayGuestsAnswer,
    GatewayWait,
    GatewayWaitAnswer,
    GuestConnection,
)
from broker.schema.login import (
    AuthorityKeyView,
    AuthorityKind,
    AuthorityList,
    CertificateAnswer,
    CertificateRequest,
    GatewayKeys,
    KeyAdd,
    KeyList,
    KeyView,
    RetireRequest,
    RotateRequest,
    UserCertificateAnswer,
    UserCertificateList,
    UserCertificateRequest,
)


def add_key_routes(app: FastAPI, services: Services) -> None:
    keys = services.keys

    @app.get("/v1/keys")
    async def list_keys(who: Who) -> KeyList:
        return KeyList(keys=await keys.views(who.user))

    @app.post("/v1/keys", status_code=201)
    async def add_key(who: Who, key: KeyAdd) -> KeyView:
        return await keys.add(who.user, key.public_key)

    @app.delete("/v1/keys/{fingerprint:path}")
    async def remove_key(who: Who, fingerprint: Annotated[str, Path(max_length=64)]) -> KeyView:
        return await keys.remove(who.user, fingerprint)


def add_certificate_routes(app: FastAPI, services: Services) -> None:
    logins, site = services.logins, services.site

    @app.get("/v1/certificates")
    async def list_certificates(who: Who) -> UserCertificateList:
        return UserCertificateList(certificates=await logins.certificates(who.user))

    @app.post("/v1/certificates", status_code=201)
    async def sign_certificate(who: Who, request: UserCertificateRequest) -> UserCertificateAnswer:
        return await logins.sign(who.user, request.public_key, request.hours)

    @app.delete("/v1/certificates")
    async def revoke_certificates(
        who: Who, fingerprint: Annotated[str | None, Query(max_length=64)] = None
    ) -> UserCertificateList:
        return UserCertificateList(certificates=await logins.revoke(who.user, fingerprint))

    @app.get("/v1/ca")
    async def list_authorities(who: Who) -> AuthorityList:
        del who  # the keys are public
        return AuthorityList(keys=site.authorities())

    @app.post("/v1/ca/{kind}/rotate")
    async def rotate_authority(who: Who, kind: AuthorityKind, request: RotateRequest) -> AuthorityKeyView:
        require_administrator(services, who)
        return site.rotate(kind, now=request.now)

    @app.post("/v1/ca/{kind}/retire")
    async def retire_authority(who: Who, kind: AuthorityKind, request: RetireRequest) -> AuthorityKeyView:
        require_administrator(services, who)
        return site.retire(kind, request.fingerprint, now=request.now)


def add_gateway_routes(app: FastAPI, services: Services) -> None:
    @app.get("/v1/gateway/keys/{user}", response_model_exclude_defaults=True)  # older gateways know no notices
    async def gateway_keys(
        who: Who,
        user: Annotated[str, Path(max_length=64)],
        notices: bool = False,
        session_notices: bool = False,
        certificates: bool = False,
    ) -> GatewayKeys:
        require_gateway(services, who)
        by_session = await services.connect.notices(user) if notices or session_notices else {}
        login = await services.logins.of(user)
        answer = GatewayKeys(
            user=user,
            keys=login.keys,
            notices=[line for name, line in by_session.items() if name] if notices else [],
            session_notices=by_session if session_notices else {},
        )
        if certificates:
            answer = answer.model_copy(update={"authorities": login.authorities, "revoked": login.revoked})
        return answer

    @app.post("/v1/gateway/wait")
    async def gateway_wait(who: Who, request: GatewayWait, gone: Gone) -> GatewayWaitAnswer:
        require_gateway(services, who)
        known = {each.session_id: each.revision for each in request.sessions}
        return GatewayWaitAnswer(changed=await services.connect.wait_for_changes(known, request.seconds, gone))

    @app.post("/v1/gateway/guests")
    async def gateway_guests(who: Who, request: GatewayGuests, gone: Gone) -> GatewayGuestsAnswer:
        require_gateway(services, who)
        await services.guests.wait_recovered(gone)
        guests = [(each.session_id, each.user) for each in request.guests]
        connections = services.guests.connections
        ended = await connections.report(request.worker, request.number, guests, request.seconds, gone)
        return GatewayGuestsAnswer(
            ended=[GuestConnection(session_id=session_id, user=user) for session_id, user in ended]
        )

    @app.post("/v1/gateway/certificate")
    async def gateway_certificate(who: Who, request: CertificateRequest) -> CertificateAnswer:
        require_gateway(services, who)
        return CertificateAnswer(certificate=services.site.certify_gateway(request.public_key))
