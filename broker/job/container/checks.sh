# Runs the user's own check after an upgrade, before sshd listens: if it fails, the session returns to its former image.

readonly CHECK_LIMIT_S=300 # seconds for the check: CHECKS_LIMIT_S in broker/controller/reconcile/reversal.py
readonly USER_CHECK=.config/berth/check # in the home; an executable file

run_user_check() { # ends the container if the user's own check fails; a session without one has passed
  local check=/home/$BERTH_OWNER/$USER_CHECK output=/run/berth/node/check.out child code=0 last
  [[ -e $check || -L $check ]] || return 0
  [[ -f $check && -x $check ]] || die "$CHECK_FAILED" "the check ~/$USER_CHECK is no executable file"
  log "running the check ~/$USER_CHECK"
  HOME=/home/$BERTH_OWNER USER=$BERTH_OWNER LOGNAME=$BERTH_OWNER \
    timeout --kill-after=5 "$CHECK_LIMIT_S" "$check" </dev/null >"$output" 2>&1 &
  child=$!
  wait "$child" || code=$?
  tail -c 2000 "$output" 2>/dev/null || :
  last=$(tail -c 300 "$output" 2>/dev/null | tr -d '\0' | tail -n 1) || :
  rm -f "$output"
  last=${last//[[:cntrl:]]/ }
  ((code != 124)) || die "$CHECK_FAILED" "the check ~/$USER_CHECK did not end within $CHECK_LIMIT_S s"
  ((code == 0)) || die "$CHECK_FAILED" "the check ~/$USER_CHECK ended with $code${last:+: $last}"
}
