# Writes the job's comment: where sshd listens, and since when the session is idle.

readonly COMMENT_RETRY_MAX_S=30 # seconds between two tries while slurmctld is down

read_host_key() { # FINGERPRINT: of the private key, since sshd proves that one; the file .pub may hold another
  local key=$DIRECTORY/run/ssh_host_ed25519_key
  read -r _ FINGERPRINT _ < <(ssh-keygen -yP '' -f "$key" | ssh-keygen -lf -) ||
    die "$BAD_DIRECTORY" "the host key $key cannot be used: a stop and a start of the session make another"
}

update_job_comment() { # PORT USE: tries until Slurm takes it: an outage of slurmctld must not end the session
  local pause=1 comment
  comment=berth:$BERTH_SESSION_ID:$BERTH_SUBMISSION:${SLURM_RESTART_COUNT:-0}:$SLURMD_NODENAME:$1:$FINGERPRINT$2
  until timeout 60 "$BERTH_SCONTROL" update "JobId=$SLURM_JOB_ID" "Comment=$comment"; do
    log "Slurm did not update the comment of the job, next attempt in $pause s"
    sleep "$pause"
    pause=$((pause * 2 < COMMENT_RETRY_MAX_S ? pause * 2 : COMMENT_RETRY_MAX_S))
  done
  log "comment of the job updated: $comment"
}
