# Writes the job's comment: where sshd listens, and since when the session is idle.

readonly COMMENT_RETRY_MAX_S=30 # seconds between two tries while slurmctld is down
readonly WAITS_COMMENT=waits # instead of an endpoint: the job has passed its checks and waits for run/lock

read_host_key() { # FINGERPRINT: of the private key, since sshd proves that one; the file .pub may hold another
  local key=$DIRECTORY/run/ssh_host_ed25519_key
  read -r _ FINGERPRINT _ < <(ssh-keygen -yP '' -f "$key" | ssh-keygen -lf -) ||
    die "$BAD_DIRECTORY" "the host key $key cannot be used: a stop and a start of the session make another"
}

update_job_comment() { # PORT USE: publishes where sshd listens, as write_job_comment
  write_job_comment "$SLURMD_NODENAME:$1:$FINGERPRINT$2"
}

write_job_comment() { # TEXT: in the background; tries until Slurm takes it: an outage of slurmctld must not end the session
  local pause=1 comment child=''
  trap '[[ -z $child ]] || kill "$child" 2>/dev/null; exit 0' TERM # a late update would hide that of the next run
  comment=berth:$BERTH_SESSION_ID:$BERTH_SUBMISSION:${SLURM_RESTART_COUNT:-0}:$1${BERTH_SHOW_NAME:+ $BERTH_SESSION_NAME}
  until {
    timeout 60 "$BERTH_SCONTROL" update "JobId=$SLURM_JOB_ID" "Comment=$comment" &
    child=$!
    wait "$child"
  }; do
    log "Slurm did not update the comment of the job, next attempt in $pause s"
    sleep "$pause" &
    child=$!
    wait "$child" || :
    pause=$((pause * 2 < COMMENT_RETRY_MAX_S ? pause * 2 : COMMENT_RETRY_MAX_S))
  done
  log "comment of the job updated: $comment"
}
