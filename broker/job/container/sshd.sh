# Configures and runs sshd.

write_sshd_config() {
  local run=/run/berth/session user=$BERTH_OWNER LOCALES='' SETENV
  [[ -z $BERTH_ROOT ]] || user=root
  # StrictModes: it wants every parent folder to be root's or the user's, but root is nobody in a user namespace;
  #   check_files() has checked the session's directory instead.
  # ListenAddress: on IPv4 alone, since with both families sshd starts even if only one of the two could be bound.
  #   AddressFamily inet would do the same, but would also keep forwards from a service that listens on [::1].
  # MaxAuthTries: as many keys as the gateway takes (broker/gateway/settings.py).
  # LogLevel: sshd logs "Server listening" at INFO.
  printf '%s\n' \
    "AddressFamily any" \
    "ListenAddress 0.0.0.0" \
    "HostKey $run/ssh_host_ed25519_key" \
    "HostCertificate $run/ssh_host_ed25519_key-cert.pub" \
    "AuthorizedKeysFile $run/authorized_keys" \
    "RevokedKeys $run/revoked_keys" \
    "AuthenticationMethods publickey" \
    "PubkeyAuthentication yes" \
    "PasswordAuthentication no" \
    "KbdInteractiveAuthentication no" \
    "AllowUsers $user" \
    "PermitRootLogin prohibit-password" \
    "StrictModes no" \
    "UsePAM no" \
    "PidFile /run/berth/node/sshd.pid" \
    "LogLevel INFO" \
    "LoginGraceTime 30" \
    "MaxAuthTries 40" \
    "MaxStartups 100" \
    "MaxSessions 100" \
    "ClientAliveInterval 30" \
    "ClientAliveCountMax 4" \
    "AllowTcpForwarding yes" \
    "AllowStreamLocalForwarding yes" \
    "StreamLocalBindUnlink yes" \
    "AllowAgentForwarding yes" \
    "PermitTunnel no" \
    "PermitUserEnvironment no" \
    "AcceptEnv COLORTERM" \
    "KexAlgorithms -ecdh-sha2-*" \
    "MACs -hmac-sha1*" \
    "PrintMotd no" \
    "PrintLastLog no" \
    "Subsystem sftp internal-sftp"
  [[ ! -x /usr/bin/xauth ]] || echo "X11Forwarding yes"
  # All clients come from the gateway's address: failed logins of one must not lock out the others. OpenSSH before 9.8
  # does not know the option.
  ! grep -q persourcepenalties "$SSHD" || echo "PerSourcePenalties no"
  ! has_locales || LOCALES=yes
  set_login_environment
  [[ -z $LOCALES ]] || echo "AcceptEnv LANG LC_*"
  echo "$SETENV"
}

serve_requests() { # by serve_own: does what the job asks for. LISTS: whether a list of the services is due
  local TERMINALS
  [[ ! -f /run/berth/node/notice ]] || write_to_terminals 2
  if [[ -f /run/berth/node/look ]]; then rm -f /run/berth/node/look && deduct_listing && measure_usage && LISTS=yes; fi
  if [[ -f /run/berth/node/stand ]]; then rm -f /run/berth/node/stand && freeze_processes; fi
}

run_sshd() { # PORT: runs sshd until it ends, and returns its code; meanwhile serves each request of the job (SIGUSR1)
  local code sshd
  "$SSHD" -D -e -f /run/berth/node/sshd_config -p "$1" &
  sshd=$!
  while :; do
    code=129 # of a wait that a signal ended: one may have come already
    [[ -n $SIGNALLED ]] || { code=0 && wait "$sshd"; } || code=$?
    if [[ -n $SIGNALLED ]]; then
      SIGNALLED=''
      LISTS=''
      serve_own serve_requests
      [[ -z $LISTS ]] || report_services
    fi
    # A signal for us has ended wait, and not sshd.
    if ((code <= 128)) || ! kill -0 "$sshd" 2>/dev/null; then return "$code"; fi
  done
}
