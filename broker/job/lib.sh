# Log lines, exit codes, and the functions that several parts call.

# Exit codes, as in docs/reference/session-job.md. 0: ended by SIGTERM. Codes of sshd and Apptainer are passed on.
readonly USAGE=64 # not called as the usage says, or not by Slurm
readonly BAD_JOB_ENV=65 # run/job.env is missing, malformed or another user's
readonly BAD_DIRECTORY=66 # the session's directory is not the user's own or is open to others
readonly BAD_IMAGE=67 # the image cannot be read, has another size, does not mount, or has bad links
readonly LOCKED=68 # another job has this session's volumes open
readonly NO_NODE_DIR=69 # the job could not make its directory on the node
readonly UNFIT_NODE=70 # the node lacks a program or a kind of namespace that a session needs
# shellcheck disable=SC2034 # of sessions only
readonly BAD_CONTENT=71 # the image has no sshd
# shellcheck disable=SC2034 # of sessions only
readonly OUT_OF_MEMORY=72 # the kernel killed a process of the session for memory; Slurm shows its own OUT_OF_MEMORY
# shellcheck disable=SC2034 # of sessions only
readonly SUPERSEDED=73 # a later job has the session: run/job.env, or the last save of its system, is that job's
readonly BAD_VOLUMES=74 # volumes.json, or a layer that it names, is missing or bad, does not mount, or has bad links
# shellcheck disable=SC2034 # of sessions only
readonly NOT_READY=75 # a run that may be undone did not become ready in time; the job continues, and waits
# shellcheck disable=SC2034 # of sessions only
readonly CHECK_FAILED=76 # a check after an upgrade failed; the job continues, and waits

set -euo pipefail

LOG_STYLE=job # or `user`: on standard error, without the time; or `errors`: as `user`, but errors only

log() { # MESSAGE: one line; a full file system costs the line, not the job
  case $LOG_STYLE in
    job) printf '%(%FT%T%z)T berth: %s\n' -1 "$*" || : ;;
    user) printf 'berth: %s\n' "$*" >&2 || : ;;
    *) [[ $* != 'error: '* ]] || printf 'berth: %s\n' "$*" >&2 || : ;;
  esac
}

die() { # CODE MESSAGE
  # shellcheck disable=SC2034 # of sessions only
  FAILURE=$2
  log "error: $2"
  exit "$1"
}

remove_tree() { # DIRECTORY: removes also folders without write permission, and files of other ids from root mode
  rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwX -- "$1" && rm -rf -- "$1"; } 2>/dev/null ||
    unshare --user --map-root-user --map-users auto --map-groups auto rm -rf -- "$1" ||
    log "warning: $1 could not be removed"
}

forward_signal() { # SIGNAL: to the process CHILD, if it runs
  [[ -z $CHILD ]] || kill "-$1" "$CHILD" 2>/dev/null || :
}

exit_with_child() { # waits for the process CHILD, and exits with its code
  local code
  while :; do
    code=0
    wait "$CHILD" || code=$?
    if ((code <= 128)) || ! kill -0 "$CHILD" 2>/dev/null; then exit "$code"; fi # else a signal ended wait
  done
}

find_python() { # PYTHON: an interpreter that is new enough for broker/volumes/saves.py
  for PYTHON in python3 python3.{20..11}; do
    ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 0
  done
  return 1
}

run_saves() { # COMMAND ARGUMENT…: runs a command of broker/volumes/saves.py
  # Root of a namespace also opens files that the user has closed to the user.
  local as=()
  ! unshare --map-root-user true 2>/dev/null || as=(unshare --map-root-user)
  "${as[@]}" "$PYTHON" -I "$DIRECTORY/run/copying.pyz" "$@"
}
