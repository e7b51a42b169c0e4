# Runs the checks of the profile and the user's own after an upgrade, before sshd listens: if one fails, the session
# returns to its former image.

readonly CHECK_LIMIT_S=300 # seconds for the user's own check: CHECK_LIMIT_S in broker/controller/reconcile/reversal.py
readonly USER_CHECK=.config/berth/check # in the home; an executable file

run_checks() { # ends the container if a check fails
  local home=/home/$BERTH_OWNER seconds needs name command has_gpu=''
  ((${SLURM_GPUS_ON_NODE:-0} == 0 && ${SLURM_SHARDS_ON_NODE:-0} == 0)) || has_gpu=yes
  while read -r seconds needs name command <&3; do
    [[ $seconds =~ ^[1-9][0-9]{0,4}$ && -n $command ]] || continue
    if [[ $needs == gpu && -z $has_gpu ]]; then continue; fi
    run_check "$seconds" "check $name of the profile" bash -lc "$command"
  done 3</run/berth/session/checks || :
  [[ -e $home/$USER_CHECK || -L $home/$USER_CHECK ]] || return 0
  [[ -f $home/$USER_CHECK && -x $home/$USER_CHECK ]] || die "$CHECK_FAILED" "the check ~/$USER_CHECK is no executable file"
  run_check "$CHECK_LIMIT_S" "check ~/$USER_CHECK" "$home/$USER_CHECK"
}

run_check() { # SECONDS NAME COMMAND…: ends the container if the command fails; its last line is a part of the reason
  local seconds=$1 name=$2 output=/run/berth/node/check.out child code=0 last
  shift 2
  log "running the $name"
  HOME=/home/$BERTH_OWNER USER=$BERTH_OWNER LOGNAME=$BERTH_OWNER \
    timeout --kill-after=5 "$seconds" "$@" </dev/null >"$output" 2>&1 3<&- &
  child=$!
  wait "$child" || code=$?
  tail -c 2000 "$output" 2>/dev/null || :
  last=$(tail -c 300 "$output" 2>/dev/null | tr -d '\0' | tail -n 1) || :
  rm -f "$output"
  last=${last//[[:cntrl:]]/ }
  ((code != 124)) || die "$CHECK_FAILED" "the $name did not end within $seconds s"
  ((code == 0)) || die "$CHECK_FAILED" "the $name ended with $code${last:+: $last}"
}
