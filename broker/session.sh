#!/bin/bash
# Carries one session for the life of one Slurm job: mounts its home, starts sshd inside its image as the user, and
# says in the job's own comment where that listens.
#
#   sbatch … session.sh SESSION_DIRECTORY
#
# Everything else comes from SESSION_DIRECTORY/run/job.env. It is one file because Slurm copies the batch script to the
# node and nothing else: the part that runs inside the container, enter(), travels with it as text.
# docs/reference/session-job.md has the keys, the files, the comment and these exit codes in full.
#
# Exit codes. 0: told to end. Those of sshd and Apptainer are passed on; these are our own:
readonly USAGE=64         # not called as above, or not by Slurm
readonly BAD_JOB_ENV=65   # run/job.env is missing, malformed or somebody else's
readonly BAD_DIRECTORY=66 # the session's directory is not the user's own or is open to others
readonly BAD_IMAGE=67     # the image cannot be read or has another size than it was published with
readonly LOCKED=68        # another job has this session's home open
readonly NO_NODE_DIR=69   # no directory of our own could be made on the node
readonly UNFIT_NODE=70    # the node lacks Apptainer, PID namespaces, Slurm's scontrol or ssh-keygen
readonly BAD_CONTENT=71   # the image has no sshd
readonly OUT_OF_MEMORY=72 # the kernel killed a process of the session for memory; Slurm shows its own OUT_OF_MEMORY

readonly LOCK_WAIT=10            # seconds; a predecessor on another node may still be dying
readonly STOP_GRACE=3            # seconds between TERM and KILL for the session's processes; below any sane KillWait
readonly TICK=2                  # seconds between two looks at the memory
readonly BIND_TRIES=20           # ports tried before giving up
readonly LOG_LIMIT=$((4 << 20))  # bytes; above it the job's log is cut back to its last quarter
readonly LOG_CHECK=5000          # lines between two looks at the log's size
readonly ANNOUNCE_PAUSE_MAX=30   # seconds between two tries while slurmctld is down
readonly OLDEST_APPTAINER=1.4.4  # older ones lose deletions in overlays

set -euo pipefail

say() { printf '%(%FT%T%z)T berth: %s\n' -1 "$*"; }

die() { # CODE MESSAGE
  say "error: $2"
  exit "$1"
}

# ---- inside the container ------------------------------------------------------------------------------------------

login_environment() { # SETENV: the sshd_config line that gives ssh logins the environment of the job and the image
  local name value
  # sshd starts every login from a clean environment. It takes the first SetEnv line only, so all goes on one.
  # A login shell's /etc/profile overwrites PATH; the image's profile.d puts BERTH_PATH back.
  export BERTH_PATH=$PATH XDG_RUNTIME_DIR=/run/berth/node
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH//\/.singularity.d\/libs/}
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
  [[ -n $LD_LIBRARY_PATH ]] || unset LD_LIBRARY_PATH # an empty entry would mean the current folder
  SETENV=SetEnv
  while read -r name; do
    case $name in
      HOME | USER | LOGNAME | SHELL | MAIL | PWD | OLDPWD | SHLVL | TERM | _) ;;         # the login's own
      APPTAINER* | SINGULARITY* | USER_PATH | PS1 | PROMPT_COMMAND) ;;                   # Apptainer's own
      ENVIRONMENT | SLURM_EXPORT_ENV | SLURM_OPEN_MODE) ;;                               # the batch script's: misleads srun
      TMPDIR | TMP | TEMP | BASH_* | ENV | LD_PRELOAD | SSH_* | DISPLAY | XAUTHORITY) ;; # the node's, not the container's
      *)
        value=${!name}
        [[ $value != *[$'\n\r']* ]] || continue # cannot be written on one line
        value=${value//\\/\\\\}
        SETENV+=" \"$name=${value//\"/\\\"}\""
        ;;
    esac
  done < <(compgen -e)
}

sshd_config() {
  local run=/run/berth/session
  # StrictModes: it wants every parent folder to be root's or the user's, but root is nobody in a user namespace;
  #   session.sh has checked the session's directory instead.
  # AddressFamily: with both families sshd goes on when only one of the two could be bound.
  # LogLevel: "Server listening" is said at INFO.
  printf '%s\n' \
    "AddressFamily inet" \
    "HostKey $run/ssh_host_ed25519_key" \
    "HostCertificate $run/ssh_host_ed25519_key-cert.pub" \
    "AuthorizedKeysFile $run/authorized_keys" \
    "AuthenticationMethods publickey" \
    "PubkeyAuthentication yes" \
    "PasswordAuthentication no" \
    "KbdInteractiveAuthentication no" \
    "AllowUsers $BERTH_OWNER" \
    "StrictModes no" \
    "UsePAM no" \
    "PidFile /run/berth/node/sshd.pid" \
    "LogLevel INFO" \
    "LoginGraceTime 30" \
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
    "PrintMotd no" \
    "PrintLastLog no" \
    "Subsystem sftp internal-sftp"
  [[ ! -x /usr/bin/xauth ]] || echo "X11Forwarding yes"
  # Everybody comes from the gateway's address: failed logins of one must not lock the others out. OpenSSH before 9.8
  # does not know the word.
  ! grep -q persourcepenalties "$SSHD" || echo "PerSourcePenalties no"
  login_environment
  echo "$SETENV"
}

adapt_accounts() { # Apptainer has mounted its own copies of the two files, in memory: they can be rewritten in place
  local lines entry
  # sshd gives a terminal to the group tty if there is one, but its gid is not mapped in the user namespace.
  mapfile -t lines </etc/group
  for entry in "${lines[@]}"; do [[ $entry == tty:* ]] || printf '%s\n' "$entry"; done >/etc/group
  # The node's login shell may be missing in the image.
  mapfile -t lines </etc/passwd
  for entry in "${lines[@]}"; do
    [[ $entry != "$BERTH_OWNER":* || -x ${entry##*:} ]] || entry=${entry%:*}:/bin/bash
    printf '%s\n' "$entry"
  done >/etc/passwd
}

first_home() { # an empty home begins as a copy of the image's /etc/skel
  local content
  shopt -s nullglob dotglob
  content=("$HOME"/*)
  if [[ ${#content[@]} -eq 0 && -d /etc/skel ]]; then cp -RT /etc/skel "$HOME"; fi
}

leave() { # CODE: every process of the session gets TERM and some time; those that stay end with this one, the first
  local end=$((SECONDS + STOP_GRACE)) pause
  trap '' TERM
  kill -TERM -1 2>/dev/null || :
  exec {pause}<> <(:)
  while kill -0 -1 2>/dev/null && ((SECONDS <= end)); do read -rt 0.05 -u "$pause" || :; done
  exit "$1"
}

enter() { # LOWEST HIGHEST: runs as process 1 of the container's PID namespace
  local lowest=$1 ports=$(($2 - $1 + 1)) start=$((RANDOM << 15 | RANDOM)) try code config=/run/berth/node/sshd_config
  # leave() signals everything it can see: that must be the session and not all of the user's processes on the node.
  [[ $$ -eq 1 ]] || die "$UNFIT_NODE" "apptainer.conf on this node does not allow PID namespaces"
  trap 'leave 0' TERM
  umask 022
  SSHD=/usr/sbin/sshd
  [[ -x $SSHD ]] || die "$BAD_CONTENT" "the image has no $SSHD"
  first_home
  adapt_accounts
  sshd_config >"$config"
  # Bind first, announce then: a port that was free a moment ago is not a port that we have.
  for ((try = 0; try < BIND_TRIES && try < ports; try++)); do
    code=0
    "$SSHD" -D -e -f "$config" -p $((lowest + (start + try) % ports)) &
    wait $! || code=$?
    # The PID file is written once sshd listens: an end before that may be a port in use, later ones are final.
    [[ $code -ne 255 || -e /run/berth/node/sshd.pid ]] && break
    "$SSHD" -t -f "$config" || break
  done
  leave "$code"
}

# ---- on the node ---------------------------------------------------------------------------------------------------

read_job_env() { # FILE: sets the keys known here; never evaluates a value
  local line number=0
  # shellcheck disable=SC2034 # taken by name in require() and main()
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    [[ $line =~ ^([A-Z][A-Z0-9_]*)=([^[:cntrl:]]*)$ ]] || die "$BAD_JOB_ENV" "run/job.env, line $number: not KEY=VALUE"
    case ${BASH_REMATCH[1]} in
      BERTH_SESSION_ID | BERTH_SESSION_NAME | BERTH_OWNER | BERTH_SUBMISSION | BERTH_PROFILE | BERTH_PROFILE_VERSION | \
        BERTH_IMAGE | BERTH_IMAGE_SIZE | BERTH_BINDS | BERTH_PORTS | BERTH_APPTAINER | BERTH_SCONTROL)
        printf -v "${BASH_REMATCH[1]}" %s "${BASH_REMATCH[2]}"
        ;;
    esac
  done <"$1"
}

require() { # KEY PATTERN
  [[ ${!1:-} =~ ^($2)$ ]] || die "$BAD_JOB_ENV" "run/job.env: $1 is missing or malformed"
}

check_job_env() {
  local path='/[^,:]*' word='[A-Za-z0-9._-]+'
  require BERTH_SESSION_ID "$word"
  require BERTH_SESSION_NAME "$word"
  require BERTH_SUBMISSION "$word"
  require BERTH_OWNER "$word"
  require BERTH_IMAGE "$path"
  require BERTH_IMAGE_SIZE '[0-9]+'
  require BERTH_BINDS "|$path:$path(:ro)?(,$path:$path(:ro)?)*"
  require BERTH_PORTS '[1-9][0-9]{3,4}-[1-9][0-9]{3,4}'
  ((${BERTH_PORTS%-*} <= ${BERTH_PORTS#*-} && ${BERTH_PORTS#*-} <= 65535)) || die "$BAD_JOB_ENV" "run/job.env: BERTH_PORTS"
  [[ $BERTH_OWNER == "$(id -un)" ]] || die "$BAD_JOB_ENV" "run/job.env: the owner is $BERTH_OWNER, not you"
}

check_files() { # all that needs no lock
  local directory size seen
  for directory in "$DIRECTORY" "$DIRECTORY/run"; do
    [[ -d $directory ]] || die "$BAD_DIRECTORY" "there is no directory $directory"
  done
  [[ -f $BERTH_IMAGE && -r $BERTH_IMAGE ]] || die "$BAD_IMAGE" "the image $BERTH_IMAGE is not there or cannot be read"
  mapfile -t seen < <(stat -L -c '%u %a %s' -- "$DIRECTORY" "$DIRECTORY/run" "$BERTH_IMAGE")
  [[ ${seen[0]} == "$UID 700 "* && ${seen[1]} == "$UID 700 "* ]] ||
    die "$BAD_DIRECTORY" "$DIRECTORY and its run must be yours and have mode 700"
  size=${seen[2]##* }
  [[ $size == "$BERTH_IMAGE_SIZE" ]] || die "$BAD_IMAGE" "the image $BERTH_IMAGE has $size bytes, not $BERTH_IMAGE_SIZE"
}

take_lock() { # one writer: whoever has run/lock has the home; kept until this process ends, however it ends
  local lock
  exec {lock}>>"$DIRECTORY/run/lock"
  flock -w "$LOCK_WAIT" "$lock" || die "$LOCKED" "another job has the home of this session open"
}

make_node_dir() { # NODE_DIR: what must not lie on the shared file system; ours alone
  local base=${SLURM_TMPDIR:-/tmp} old
  for old in "$base/berth-$UID-$BERTH_SESSION_ID".*; do # of a run that was killed; the lock says that it is over
    if [[ -d $old && -O $old && ! -L $old ]]; then remove_tree "$old"; fi
  done
  NODE_DIR=$(mktemp -d "$base/berth-$UID-$BERTH_SESSION_ID.XXXXXXXX") || die "$NO_NODE_DIR" "no directory in $base"
  mkdir -m 700 "$NODE_DIR/run"
}

remove_tree() { # DIRECTORY: also where a build left folders without write permission
  rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwX -- "$1" && rm -rf -- "$1"; } || say "warning: $1 could not be removed"
}

trim_log() { # Slurm has opened the log for appending, so cutting it back in place is safe
  local log=$DIRECTORY/run/job.log size
  size=$(stat -c %s -- "$log" 2>/dev/null || echo 0)
  ((size > LOG_LIMIT)) || return 0
  tail -c $((LOG_LIMIT / 4)) -- "$log" >"$NODE_DIR/log" && cat "$NODE_DIR/log" >"$log" && rm -f "$NODE_DIR/log"
}

check_version() {
  local version
  version=$("$BERTH_APPTAINER" --version) && version=${version##* }
  printf '%s\n' "$OLDEST_APPTAINER" "${version%%-*}" | sort -CV ||
    say "warning: Apptainer $version is older than $OLDEST_APPTAINER, which lost files in overlays before"
}

find_oom_counter() { # OOM_COUNTER: the file in which the kernel counts the processes of this job that it killed for memory
  local controllers path mount file
  OOM_COUNTER=/dev/null
  while IFS=: read -r _ controllers path; do
    case ,$controllers, in
      *,memory,*) mount=/sys/fs/cgroup/memory file=memory.oom_control ;; # version 1
      ,,) mount=/sys/fs/cgroup file=memory.events ;;                     # version 2: the leaf may lack the controller
      *) continue ;;
    esac
    while [[ ! -r $mount$path/$file && $path == */job_"$SLURM_JOB_ID"/* ]]; do path=${path%/*}; done
    if [[ -r $mount$path/$file && $path == */job_"$SLURM_JOB_ID"* ]]; then OOM_COUNTER=$mount$path/$file; fi
  done </proc/self/cgroup
}

check_memory() { # a session that lost a process to the memory limit is no longer whole: it ends, and Slurm says why
  local key value
  while read -r key value; do
    [[ $key != oom_kill || $value == 0 ]] || die "$OUT_OF_MEMORY" "out of memory: a process of the session was killed"
  done <"$OOM_COUNTER"
}

announce() { # PORT: as often as it takes, since an outage of slurmctld must not cost the session
  local pause=1 comment
  comment=berth:$BERTH_SESSION_ID:$BERTH_SUBMISSION:${SLURM_RESTART_COUNT:-0}:$SLURMD_NODENAME:$1:$FINGERPRINT
  until timeout 60 "$BERTH_SCONTROL" update "JobId=$SLURM_JOB_ID" "Comment=$comment"; do
    say "Slurm did not take the announcement, next try in $pause s"
    sleep "$pause"
    pause=$((pause * 2 < ANNOUNCE_PAUSE_MAX ? pause * 2 : ANNOUNCE_PAUSE_MAX))
  done
  say "announced $comment"
}

start_container() { # CONTAINER: Apptainer's process; LOG: what it and all below it say
  local binds=()
  [[ ! -d /dev/dri ]] || binds+=(--bind /dev/dri)
  [[ -z $BERTH_BINDS ]] || binds+=(--bind "$BERTH_BINDS")
  {
    declare -p UNFIT_NODE BAD_CONTENT STOP_GRACE BIND_TRIES
    echo 'set -euo pipefail'
    declare -f say die login_environment sshd_config adapt_accounts first_home leave enter
    echo 'enter "$@"'
  } >"$NODE_DIR/run/enter"
  # --pid --no-init: enter() is process 1, so nothing of the session outlives it.
  # --workdir: /tmp and /var/tmp lie in the node's own storage; Apptainer's default is 64 MB of memory.
  exec {LOG}< <(
    exec "$BERTH_APPTAINER" -q exec --contain --pid --no-init --no-umask --no-eval --workdir "$NODE_DIR" \
      --home "$DIRECTORY/home/upper:/home/$BERTH_OWNER" --cwd "/home/$BERTH_OWNER" \
      --bind "$DIRECTORY/run:/run/berth/session:ro" --bind "$NODE_DIR/run:/run/berth/node" "${binds[@]}" \
      "$BERTH_IMAGE" /bin/bash /run/berth/node/enter "${BERTH_PORTS%-*}" "${BERTH_PORTS#*-}" 2>&1
  )
  CONTAINER=$!
}

follow_container() { # copies the container's words to the job's log until it has ended
  local line part='' count=0 announced='' ended
  while :; do
    ended=0
    IFS= read -r -t "$TICK" -u "$LOG" line || ended=$?
    part+=$line
    check_memory
    if ((ended > 128)); then # nothing said for a while; a line may be half read
      [[ -z ${STOPPING:-} ]] || kill -TERM "$CONTAINER" 2>/dev/null || :
      continue
    fi
    ((ended == 0)) || break
    line=${part%$'\r'} part=''
    printf '%s\n' "$line"
    if [[ -z $announced && $line =~ ^"Server listening on "[^\ ]+" port "([0-9]+)\.$ ]]; then
      announced=yes
      { announce "${BASH_REMATCH[1]}" && check_version; } &
    fi
    if ((++count % LOG_CHECK == 0)); then trim_log; fi
  done
}

finish() { # on every way out
  local code=$? job
  trap '' TERM USR1
  for job in $(jobs -p); do kill "$job" 2>/dev/null || :; done
  if [[ -n ${CONTAINER:-} ]] && kill -TERM "$CONTAINER" 2>/dev/null; then
    { sleep $((STOP_GRACE + 2)) && kill -KILL "$CONTAINER"; } &
    wait "$CONTAINER" || :
    kill $! 2>/dev/null || :
  fi
  [[ -z ${NODE_DIR:-} ]] || remove_tree "$NODE_DIR"
  say "ended with $code"
}

stop() { # TERM: scancel, preemption, requeue or the time limit; Slurm waits KillWait seconds before it kills
  STOPPING=yes
  say "told to end"
  if [[ -n ${CONTAINER:-} ]]; then kill -TERM "$CONTAINER" 2>/dev/null || :; else exit 0; fi
}

main() {
  local code=0
  [[ $# -eq 1 && $1 =~ ^/[^,:]*$ && -n ${SLURM_JOB_ID:-} && -n ${SLURMD_NODENAME:-} ]] ||
    die "$USAGE" "usage: sbatch … session.sh SESSION_DIRECTORY"
  readonly DIRECTORY=$1
  trap finish EXIT
  trap stop TERM
  trap 'say "the time limit is near"' USR1
  # --export=NIL leaves Slurm's own variables only; what a site's prolog adds must not add mounts.
  unset "${!BERTH_@}" "${!APPTAINER_@}" "${!SINGULARITY_@}"
  export PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  umask 077
  cd /
  say "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, on $SLURMD_NODENAME"

  BERTH_BINDS='' BERTH_PORTS=20000-32767 BERTH_APPTAINER=apptainer BERTH_SCONTROL=scontrol
  BERTH_PROFILE='' BERTH_PROFILE_VERSION=''
  [[ -O $DIRECTORY/run/job.env && -f $DIRECTORY/run/job.env ]] || die "$BAD_JOB_ENV" "no $1/run/job.env of yours"
  read_job_env "$DIRECTORY/run/job.env"
  check_job_env
  check_files
  type -P "$BERTH_APPTAINER" "$BERTH_SCONTROL" ssh-keygen >/dev/null ||
    die "$UNFIT_NODE" "$SLURMD_NODENAME lacks one of $BERTH_APPTAINER, $BERTH_SCONTROL, ssh-keygen"
  take_lock
  make_node_dir
  trim_log
  mkdir -p "$DIRECTORY/home/upper"
  export BERTH_SESSION_ID BERTH_SESSION_NAME BERTH_OWNER BERTH_PROFILE BERTH_PROFILE_VERSION
  export APPTAINER_CONFIGDIR=$NODE_DIR/apptainer
  start_container
  read -r _ FINGERPRINT _ <<<"$(ssh-keygen -lf "$DIRECTORY/run/ssh_host_ed25519_key.pub")"
  find_oom_counter
  follow_container
  wait "$CONTAINER" || code=$?
  CONTAINER=''
  check_memory
  [[ -z ${STOPPING:-} ]] || code=0
  exit "$code"
}

# The unit tests take the functions without running them.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
