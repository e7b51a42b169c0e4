"""A gateway that comes through ssh, as from another login node: to the controller it is the account of its sshd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.site.deploy import GATEWAY_ACCOUNT

if TYPE_CHECKING:
    from tests.lab.conftest import User

ASK = "curl -s -m 10 -o /dev/null -w '%{http_code}' --unix-socket"


def test_the_forwarded_socket_is_the_gateways_for_the_gateways_account_only(alice: User) -> None:
    """The login node plays both: what counts is whose sshd opens the controller's socket."""
    said = alice.site.lab.sh(
        f"""
        room=$(mktemp -d); cd $room; trap 'kill $(cat pids) || :; rm -rf $room' EXIT
        # sshd without PAM refuses accounts that are locked, or whose shell the lab does not have.
        usermod -p '*' -s /bin/false {GATEWAY_ACCOUNT}
        ssh-keygen -q -t ed25519 -N '' -f key
        echo login $(cat /etc/ssh/ssh_host_ed25519_key.pub) >known_hosts
        for user in {GATEWAY_ACCOUNT} alice; do
            home=$(getent passwd $user | cut -d: -f6)
            install -d -m 700 -o $user $home/.ssh
            cp -a $home/.ssh/authorized_keys before.$user 2>/dev/null || touch before.$user
            cat key.pub >>$home/.ssh/authorized_keys; chown $user $home/.ssh/authorized_keys
            ssh -N -T -F none -i key -o BatchMode=yes -o IdentitiesOnly=yes -o UserKnownHostsFile=known_hosts \\
                -o ExitOnForwardFailure=yes -L $room/$user.sock:/run/berth/api.sock $user@login >log.$user 2>&1 &
            echo $! >>pids
            for _ in $(seq 100); do [ ! -S $user.sock ] || break; sleep 0.1; done
            {ASK} $room/$user.sock http://x/v1/gateway/keys/alice; echo
            cat before.$user >$home/.ssh/authorized_keys
        done
        """
    )
    assert said.split() == ["200", "403"]
