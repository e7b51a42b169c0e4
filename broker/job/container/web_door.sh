# The door of berth-web, the gateway for browsers: a login name that reaches the sockets of services, and nothing else.

print_web_rules() { # the block of sshd_config for this login
  # TrustedUserCAKeys, AuthorizedPrincipalsFile: sshd reads both at each login. Without the first there is no web access.
  #   The second has `restrict`, the one command and the sockets: see admit_sockets.
  # AllowTcpForwarding: `no` would also close the sockets; the sockets are all that may be opened.
  # AllowStreamLocalForwarding: with `yes`, StreamLocalBindUnlink would let a forward remove any file of the owner's.
  # AcceptEnv: instead of what logins of the owner may send; no client has a variable of this name.
  printf '%s\n' \
    "AuthorizedKeysFile none" \
    "TrustedUserCAKeys /run/berth/session/web_authority" \
    "AuthorizedPrincipalsFile /run/berth/node/web_principals" \
    "AllowTcpForwarding local" \
    "AllowStreamLocalForwarding local" \
    "AllowAgentForwarding no" \
    "X11Forwarding no" \
    "PermitTTY no" \
    "PermitUserRC no" \
    "AcceptEnv none"
}
