#!/bin/bash
# Carries one session for the life of one Slurm job: mounts what the session keeps as stacks of layers over its image,
# starts sshd in there as the user, and says in the job's own comment where that listens.
#
#   sbatch … session.sh SESSION_DIRECTORY SUBMISSION
#
# Everything else comes from SESSION_DIRECTORY/run/job.env and SESSION_DIRECTORY/volumes.json. It is one file because
# Slurm copies the batch script to the node and nothing else; its parts travel with it as text:
#
#   main   on the node, as the user: checks, lock, announcement, log, cleaning up
#   hold   in a user and mount namespace where the user is root: the mounts; parent of the container
#   enter  process 1 of the container: accounts, sshd, and the standstill for a copy
#
# docs/reference/session-job.md has the keys, the files, the comment and these exit codes in full.
#
# Exit codes. 0: told to end. Those of sshd and Apptainer are passed on; these are our own:
readonly USAGE=64         # not called as above, or not by Slurm
readonly BAD_JOB_ENV=65   # run/job.env is missing, malformed or somebody else's
readonly BAD_DIRECTORY=66 # the session's directory is not the user's own or is open to others
readonly BAD_IMAGE=67     # the image cannot be read, has another size than was published, does not mount, or its links are bad
readonly LOCKED=68        # another job has this session's volumes open
readonly NO_NODE_DIR=69   # no directory of our own could be made on the node
readonly UNFIT_NODE=70    # the node lacks a program or a kind of namespace that a session needs
readonly BAD_CONTENT=71   # the image has no sshd
readonly OUT_OF_MEMORY=72 # the kernel killed a process of the session for memory; Slurm shows its own OUT_OF_MEMORY
readonly SUPERSEDED=73    # a later job carries this session: run/job.env, or its system's last save, is that job's
readonly BAD_VOLUMES=74   # volumes.json, or a layer that it names, is missing or bad, or does not mount, or its links are bad

readonly STOP_GRACE=3            # seconds between TERM and KILL for the session's processes; below any sane KillWait
readonly TICK=2                  # seconds between two looks at the memory
readonly NEVER=$((1 << 40))      # seconds since the epoch
readonly BIND_TRIES=20           # ports tried before giving up
readonly LOG_LIMIT=$((4 << 20))  # bytes; above it the job's log is cut back to its last quarter
readonly LOG_CHECK=5000          # lines between two looks at the log's size
readonly ANNOUNCE_PAUSE_MAX=30   # seconds between two tries while slurmctld is down
readonly OLDEST_APPTAINER=1.4.4  # older ones lose deletions in overlays
readonly OUTCOME_SIZE=2048       # bytes of run/copy.outcome, which the launcher makes before it asks
readonly MOUNT_OPTIONS=3800       # bytes of a mount's options, of which mount(2) takes 4,095; some are not ours
readonly STILL_WAIT=5            # seconds until every process must have stopped for a copy
readonly STILL_LIMIT=60          # seconds that a copy may keep the session's processes stopped
readonly WARN_EARLY=(300 30)     # seconds before the time limit at which the terminals are told
readonly END_EARLY=5             # seconds before it at which the session ends by itself, in good order
readonly IDLE_AFTER=600          # seconds without use after which the job's comment says so, or a quarter of the idle time
readonly USE_EVERY=30            # seconds between two looks at how the session is used, or a quarter of those
readonly UNSEEN=300              # seconds after which what was last seen of that says nothing any more
readonly BUSY_PERCENT=5          # of one processor: below it, what runs is not at work
readonly LOWEST_ID=300           # where the kernel's process ids begin again: RESERVED_PIDS
readonly USER_HZ=100             # in which unit /proc/PID/stat counts processor time: time(7)
readonly MOST_LINKS=40           # symbolic links on the way to one path, as path_resolution(7) allows
readonly WORD_LIMIT=60           # bytes that are read of what the session has written for the job

# For apt in a session, where there is nobody but the user: no account _apt to become, no group adm to give a log to.
readonly APT_SETTINGS=('APT::Sandbox::User "root";' 'Dir::Log::Terminal "/dev/null";')

set -euo pipefail

# The log lies on the shared file system: when that is full, the session goes on without one.
say() { printf '%(%FT%T%z)T berth: %s\n' -1 "$*" || :; }

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
  export LANG=${LANG:-C.UTF-8}
  if [[ -n ${LOCALES:-} ]]; then
    export BERTH_LANG=$LANG
    unset LANG # clients choose theirs, and SetEnv would win over it
  fi
  SETENV=SetEnv
  while read -r name; do
    case $name in
      HOME | USER | LOGNAME | SHELL | MAIL | PWD | OLDPWD | SHLVL | TERM | _) continue ;;         # the login's own
      APPTAINER* | SINGULARITY* | USER_PATH | PS1 | PROMPT_COMMAND) continue ;;                   # Apptainer's own
      TMPDIR | TMP | TEMP | BASH_* | ENV | LD_PRELOAD | SSH_* | DISPLAY | XAUTHORITY) continue ;; # the node's, not the container's
      ENVIRONMENT) continue ;;                                                                    # the batch script's
      # What Slurm sets for MPI launchers makes them call srun, which a session does not have.
      HYDRA_BOOTSTRAP | HYDRA_LAUNCHER_EXTRA_ARGS | I_MPI_HYDRA_BOOTSTRAP | I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS) continue ;;
      OMPI_MCA_plm_slurm_args | PRTE_MCA_plm_slurm_args | PMI_* | PMIX_*) continue ;;
    esac
    if [[ $name == SLURM* ]] && ! is_for_logins "$name"; then continue; fi
    value=${!name}
    [[ $value != *[$'\n\r']* ]] || continue # cannot be written on one line
    value=${value//\\/\\\\}
    SETENV+=" \"$name=${value//\"/\\\"}\""
  done < <(compgen -e)
}

is_for_logins() { # NAME: whether a login gets this variable of Slurm: the job's name and share of the node, no task or step
  # A program that sees tasks, steps or a list of nodes (SLURM_NTASKS, SLURM_PROCID, SLURM_JOBID, SLURM_JOB_NODELIST)
  # takes itself for one that srun started: Open MPI, PyTorch Lightning and JAX do.
  case $1 in
    SLURM_JOB_ID | SLURM_JOB_PARTITION | SLURM_JOB_ACCOUNT | SLURM_JOB_QOS | SLURM_JOB_START_TIME | SLURM_JOB_END_TIME) ;;
    SLURM_CLUSTER_NAME | SLURM_CONF | SLURM_RESTART_COUNT | SLURMD_NODENAME) ;;
    SLURM_CPUS_ON_NODE | SLURM_CPUS_PER_TASK | SLURM_JOB_CPUS_PER_NODE | SLURM_MEM_PER_*) ;;
    SLURM_GPUS | SLURM_GPUS_ON_NODE | SLURM_GPUS_PER_NODE | SLURM_JOB_GPUS | SLURM_SHARDS_ON_NODE) ;;
    *) return 1 ;;
  esac
}

has_locales() { # whether the image has any but C's: then a client may choose
  local name
  while read -r name; do
    [[ $name =~ ^(C|POSIX|C\.UTF-8|C\.utf8)?$ ]] || return 0
  done < <(locale -a 2>/dev/null)
  return 1
}

sshd_config() {
  local run=/run/berth/session user=$BERTH_OWNER LOCALES='' SETENV
  [[ -z $BERTH_ROOT ]] || user=root
  # StrictModes: it wants every parent folder to be root's or the user's, but root is nobody in a user namespace;
  #   session.sh has checked the session's directory instead.
  # ListenAddress: on IPv4 alone, since with both families sshd starts even if only one of the two could be bound.
  #   AddressFamily inet would do the same, but would also keep forwards from a service that listens on [::1].
  # MaxAuthTries: as many keys as the gateway takes (broker/gateway/settings.py).
  # LogLevel: "Server listening" is said at INFO.
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
  # Everybody comes from the gateway's address: failed logins of one must not lock the others out. OpenSSH before 9.8
  # does not know the word.
  ! grep -q persourcepenalties "$SSHD" || echo "PerSourcePenalties no"
  ! has_locales || LOCALES=yes
  login_environment
  [[ -z $LOCALES ]] || echo "AcceptEnv LANG LC_*"
  echo "$SETENV"
}

adapt_accounts() {
  local lines entry
  # Root has the image's own accounts; a locked one (shadow(5)) is refused by sshd even with a key.
  if [[ -n $BERTH_ROOT ]]; then
    grep -qs '^root:!' /etc/shadow && sed -i 's/^root:!/root:*/' /etc/shadow
    return 0
  fi
  # Apptainer has mounted its own copies of the two files, in memory, unless its configuration says otherwise: what is
  # written here must not go into the volume.
  mapfile -t lines </proc/self/mountinfo
  [[ ${lines[*]} == *" /etc/passwd "* && ${lines[*]} == *" /etc/group "* ]] || return 0
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

apply_owners() { # FILE: whose the files are that `berth exec --root` installed, since in layers all are the user's own
  local uid gid mode path list=/run/berth/node/owners.d
  local -A last=() linked=()
  while read -rd ' ' uid && read -rd ' ' gid && read -rd ' ' mode && IFS= read -rd '' path; do
    last[$path]="$uid:$gid $mode" # records of later layers come later
  done <"$1"
  cd /
  mkdir "$list"
  for path in "${!last[@]}"; do
    ! through_link "/${path%/*}" "$path" || continue # what is there now is another file
    if [[ -e ./$path || -L ./$path ]]; then printf '%s\0' "./$path" >>"$list/owner ${last[$path]% *}"; fi
    if [[ -e ./$path && ! -L ./$path ]]; then printf '%s\0' "./$path" >>"$list/rights ${last[$path]#* }"; fi
  done
  shopt -s nullglob
  for path in "$list"/owner*; do xargs -0 chown -h "${path##* }" -- <"$path"; done
  for path in "$list"/rights*; do xargs -0 chmod "${path##* }" -- <"$path"; done # after chown, which takes setuid away
  rm -r "$list"
}

through_link() { # FOLDER PATH: whether a folder on the way to PATH, which is in FOLDER, is a link; `linked` remembers it
  [[ $2 == */* ]] || return 1
  if [[ -z ${linked[$1]:-} ]]; then
    linked[$1]=no
    if [[ -L $1 ]] || through_link "${1%/*}" "${1#/}"; then linked[$1]=yes; fi
  fi
  [[ ${linked[$1]} == yes ]]
}

leave() { # CODE: every process of the session gets TERM and some time; those that stay end with this one, the first
  local end=$((SECONDS + STOP_GRACE)) pause
  trap '' TERM USR1
  kill -TERM -1 2>/dev/null || :
  kill -CONT -1 2>/dev/null || :
  exec {pause}<> <(:)
  while kill -0 -1 2>/dev/null && ((SECONDS <= end)); do read -rt 0.05 -u "$pause" || :; done
  exit "$1"
}

look_at_processes() { # STATE, PARENT: of every process but this one, by its number
  local file line pid state
  STATE=() PARENT=()
  for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue # it has ended
    pid=${line%% *} line=${line##*) } # after the name, which may hold anything: state, parent, and more
    state=${line%% *} line=${line#* }
    [[ $pid -eq 1 ]] || STATE[pid]=$state PARENT[pid]=${line%% *}
  done
}

threads_stand_still() { # the threads of a process stop one by one
  local file line
  for file in /proc/[0-9]*/task/[0-9]*/stat; do
    [[ $file != /proc/1/* ]] || continue
    if { read -r line <"$file"; } 2>/dev/null && [[ ${line##*) } != [TtZX]* ]]; then return 1; fi
  done
}

stop_all() { # FD: STOPPED: whom it has stopped, in this order; fails if not everything stands still within STILL_WAIT
  local end=$((SECONDS + STILL_WAIT)) pid next running STATE PARENT
  STOPPED=()
  local -A told=()
  # A parent first, and its children when it stands still: a shell must not see its program stop, or it would take the
  # terminal back. It also lets a child that borrows its parent's memory (vfork) reach its exec.
  while :; do
    look_at_processes
    next=() running=''
    for pid in "${!STATE[@]}"; do
      [[ ${STATE[pid]} != [TtZX] ]] || continue
      running=yes
      [[ -z ${told[$pid]:-} ]] || continue
      if ((PARENT[pid] <= 1)) || [[ ${STATE[PARENT[pid]]:-Z} == [TtZX] ]]; then next+=("$pid") told[$pid]=yes; fi
    done
    if [[ ${#next[@]} -gt 0 ]]; then
      STOPPED+=("${next[@]}")
      kill -STOP "${next[@]}" 2>/dev/null || :
    elif [[ -z $running ]] && threads_stand_still; then
      return 0
    fi
    # The signals take a moment. Told to go on now, we are too late: the copy has not waited for us.
    if ((SECONDS > end)) || read -rt 0.001 -u "$1"; then return 1; fi
  done
}

stand_still() { # for a copy of the volumes: stops the session, says so, and continues it when told, or after a while
  local said told answer=all i STOPPED=()
  [[ -p /run/berth/node/still && -p /run/berth/node/go ]] || return 0 # somebody of the session sent the signal
  exec {said}<>/run/berth/node/still {told}<>/run/berth/node/go
  stop_all "$told" || answer=some
  # What FUSE holds back must reach the layers before they are read.
  if [[ $(</proc/self/mountinfo) == *fuse-overlayfs* ]]; then sync -f / "/home/$BERTH_OWNER" || answer=some; fi
  echo "$answer" >&"$said"
  read -rt $((STILL_LIMIT + STILL_WAIT)) -u "$told" || :
  # Children first, for the same reason. Whoever stood still before stays so.
  for ((i = ${#STOPPED[@]} - 1; i >= 0; i--)); do kill -CONT "${STOPPED[i]}" 2>/dev/null || :; done
  echo continued >&"$said"
  exec {said}<&- {told}<&-
}

tell_terminals() { # what is in the file: to every terminal of the session, one that takes nothing now excepted
  local terminal tellers=()
  for terminal in /dev/pts/[0-9]*; do
    [[ -w $terminal ]] || continue
    timeout 2 cat /run/berth/node/notice >"$terminal" 2>/dev/null &
    tellers+=($!)
  done
  [[ ${#tellers[@]} -eq 0 ]] || wait "${tellers[@]}" || :
  rm -f /run/berth/node/notice
}

processor_time() { # TICKS: of all that ever ran in the session, in USER_HZ: what has ended is in its parent's count
  local file line fields
  TICKS=0
  for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue
    read -ra fields <<<"${line##*) }" # from the third on: utime, stime, cutime and cstime are 14 to 17 in proc(5)
    TICKS=$((TICKS + ${fields[11]:-0} + ${fields[12]:-0} + ${fields[13]:-0} + ${fields[14]:-0}))
  done
}

gpu_work() { # WORK: what the driver has counted for those who have a GPU open; empty if it does not count
  local device file key value known
  local -A render=()
  WORK=0
  while read -r device; do render[$device]=yes; done < <(stat -Lc '%t:%T' /dev/dri/render* 2>/dev/null)
  while read -r device file; do
    [[ -n ${render[$device]:-} ]] || continue
    known=''
    while read -r key value _; do
      # Nanoseconds, or cycles: Documentation/gpu/drm-usage-stats.rst of Linux.
      case $key in drm-engine-capacity-*) ;; drm-engine-* | drm-cycles-*) known=yes WORK=$((WORK + value)) ;; esac
    done 2>/dev/null <"${file/\/fd\//\/fdinfo\/}" || continue # it has been closed
    [[ -n $known ]] || { WORK='' && return 0; }
  done < <(stat -Lc '%t:%T %n' /proc/[0-9]*/fd/* 2>/dev/null)
}

look_at_use() { # writes when the session was last used, when its GPU was (- without one), and now: seconds since the epoch
  local TICKS WORK now=$EPOCHSECONDS typed at
  ((now - SEEN_AT <= UNSEEN)) || USED=$now GPU_USED=$now # nobody looked, as in a job that was suspended
  processor_time
  if ((TICKS < SEEN_TICKS || (TICKS - SEEN_TICKS) * 100 >= (now - SEEN_AT) * USER_HZ * BUSY_PERCENT)); then USED=$now; fi
  SEEN_TICKS=$TICKS SEEN_AT=$now
  # A terminal's access time is when something last read what was typed there (every 8 s at most); programs of the image
  # that know better whether they are used, such as notebooks, touch the file.
  while read -r typed; do
    ((typed <= USED)) || USED=$typed
  done < <(stat -c %X /dev/pts/[0-9]* /run/berth/node/active 2>/dev/null)
  at=-
  if ((${SLURM_GPUS_ON_NODE:-0} + ${SLURM_SHARDS_ON_NODE:-0} > 0)); then
    gpu_work
    if [[ -z $WORK || $WORK -ne $SEEN_WORK ]]; then GPU_USED=$now; fi
    SEEN_WORK=${WORK:-0} at=$GPU_USED
    ((GPU_USED <= USED)) || USED=$GPU_USED
  fi
  { echo "$USED $at $now" >/run/berth/node/use.new && mv /run/berth/node/use.new /run/berth/node/use; } 2>/dev/null || :
}

serve() { # PORT: runs sshd until it ends, with its code; whenever it is asked to, tells something or stands still
  local code sshd
  "$SSHD" -D -e -f /run/berth/node/sshd_config -p "$1" &
  sshd=$!
  while :; do
    code=129 # of a wait that a signal ended: one may have come already
    [[ -n $ASKED ]] || { code=0 && wait "$sshd"; } || code=$?
    if [[ -n $ASKED ]]; then
      ASKED=''
      [[ ! -f /run/berth/node/notice ]] || tell_terminals
      if [[ -f /run/berth/node/look ]]; then rm -f /run/berth/node/look && look_at_use; fi
      if [[ -f /run/berth/node/stand ]]; then rm -f /run/berth/node/stand && stand_still; fi
    fi
    # A signal for us has ended wait, and not sshd.
    if ((code <= 128)) || ! kill -0 "$sshd" 2>/dev/null; then return "$code"; fi
  done
}

enter() { # LOWEST HIGHEST: runs as process 1 of the container's PID namespace
  local lowest=$1 ports=$(($2 - $1 + 1)) start=$((RANDOM << 15 | RANDOM)) try code config=/run/berth/node/sshd_config
  # leave() signals everything it can see: that must be the session and not all of the user's processes on the node.
  [[ $$ -eq 1 ]] || die "$UNFIT_NODE" "apptainer.conf on this node does not allow PID namespaces"
  ASKED='' SEEN_TICKS=0 SEEN_AT=$EPOCHSECONDS SEEN_WORK=0 USED=$EPOCHSECONDS GPU_USED=$EPOCHSECONDS
  trap 'leave 0' TERM
  trap 'ASKED=yes' USR1
  umask 022
  SSHD=/usr/sbin/sshd
  [[ -x $SSHD ]] || die "$BAD_CONTENT" "the image has no $SSHD"
  adapt_accounts
  [[ ! -s /run/berth/node/owners ]] || apply_owners /run/berth/node/owners
  sshd_config >"$config"
  # Bind first, announce then: a port that was free a moment ago is not a port that we have.
  for ((try = 0; try < BIND_TRIES && try < ports; try++)); do
    code=0
    serve $((lowest + (start + try) % ports)) || code=$?
    # The PID file is written once sshd listens: an end before that may be a port in use, later ones are final.
    [[ $code -ne 255 || -e /run/berth/node/sshd.pid ]] && break
    "$SSHD" -t -f "$config" || break
  done
  leave "$code"
}

# ---- between the two: root of a user namespace, with mounts of its own --------------------------------------------

# The links of an image or a volume mean what they mean in the container, and here / is the node's. So a path in such a
# tree is resolved by `inside`, which says where it leads to, and used in a `view` of the tree, where the kernel follows
# no link at all: neither one that has come since, nor one that was not seen to be one. docs/adr/0094.

refuse() { # TREE WORDS: the image is at fault or, in every other tree, a volume
  local code=$BAD_VOLUMES whose='the volumes'
  if [[ $1 == "$NODE_DIR/image" || $1 == "$NODE_DIR/image/"* ]]; then code=$BAD_IMAGE whose='the image'; fi
  die "$code" "$whose: $2"
}

inside() { # ROOT PATH: sets FOUND to what PATH leads to in the tree ROOT, links followed as if ROOT were /
  local rest=$2/ part target links=0
  FOUND=''
  while [[ -n $rest ]]; do
    part=${rest%%/*} rest=${rest#*/}
    case $part in
      '' | .) continue ;;
      ..)
        FOUND=${FOUND%/*}
        continue
        ;;
    esac
    if [[ -L $1$FOUND/$part ]]; then
      ((++links <= MOST_LINKS)) || refuse "$1" "$2 leads through more than $MOST_LINKS symbolic links, or in a circle"
      IFS= read -rd '' target < <(readlink -z -- "$1$FOUND/$part") || refuse "$1" "$2 changes while the session starts"
      [[ $target != /* ]] || FOUND=''
      rest=$target/$rest
    else
      FOUND+=/$part
    fi
  done
}

view() { # TREE: VIEW: the same tree mounted once more, where the kernel follows no symbolic link
  VIEW=${VIEWS[$1]:-}
  [[ -z $VIEW ]] || return 0
  VIEW=$NODE_DIR/view/${#VIEWS[@]}
  # The second way keeps flags that this namespace may not take away, such as nosuid.
  mount --bind -o nosymfollow "$1" "$VIEW" 2>/dev/null || mount -o remount,bind,nosymfollow "$VIEW" || :
  MOUNTED=("$VIEW" "${MOUNTED[@]}")
  follows_no_link "$VIEW" || die "$UNFIT_NODE" "this node cannot mount with nosymfollow, which takes Linux 5.10"
  VIEWS[$1]=$VIEW
}

follows_no_link() { # MOUNT_POINT: below NODE_DIR
  local target options found=''
  while read -r _ _ _ _ target options _; do
    [[ $target != */"${NODE_DIR##*/}/${1#"$NODE_DIR/"}" ]] || found=$options # the last one lies on top
  done </proc/self/mountinfo
  [[ ,$found, == *,nosymfollow,* ]]
}

pin() { # TREE PATH PLACE: mounts what a volume has at PATH, which `inside` has found, at a place of the job's own
  view "$1"
  if [[ -d $VIEW$2 ]]; then mkdir "$3"; else : >"$3"; fi
  # mount(8) would follow links by itself to make the path canonical. What it has mounted has the view's flag if it
  # comes from there, and else is something that the path led to outside.
  if ! mount --no-canonicalize --bind "$VIEW$2" "$3" || ! follows_no_link "$3"; then
    refuse "$1" "$2 changes while the session starts"
  fi
  mount -o remount,bind,symfollow "$3" # inside, links are links
  ! follows_no_link "$3" || die "$UNFIT_NODE" "this node cannot take nosymfollow from a mount"
  MOUNTED=("$3" "${MOUNTED[@]}")
}

shorten() { # LOWER…: NAMES: names of a few bytes for the layers, valid in the directory FROM, as mount(2) takes one page
  local layer number=0
  FROM=$(mktemp -d "$NODE_DIR/stack.XXXXXXXX") NAMES=''
  for layer in "$@"; do
    [[ $layer == /* ]] || layer=$LAYERS/$layer
    ln -s "$layer" "$FROM/$((++number))"
    NAMES+=:$number
  done
  NAMES=${NAMES#:}
}

last_words() { # TEXT: LAST: the last line of what a program said on failing that tells why; no more of it than fits a message
  local line
  LAST=''
  while IFS= read -r line; do
    case $line in
      '' | *'dmesg(1) may have more information'* | *'(hint)'* | 'unknown argument ignored: lazytime') ;;
      *) LAST=$line ;;
    esac
  done <<<"$1"
  LAST=${LAST#"${LAST%%[![:space:]]*}"}
  LAST=${LAST:0:200} LAST=${LAST%.}
}

mount_by_kernel() { # DIRECTORY OPTIONS TARGET: mounts an overlay from in there; if it fails, LAST has what mount(8) said
  local text
  # LIBMOUNT_FORCE_MOUNT2: fsconfig(2), which newer mount(8) prefer, takes no more than 256 bytes.
  text=$(cd "$1" && LIBMOUNT_FORCE_MOUNT2=always exec mount -t overlay -o "userxattr,$2" berth "$3" 2>&1) && return
  last_words "$text"
  LAST=${LAST#"mount: $3: "}
  return 1
}

mount_by_fuse() { # DIRECTORY OPTIONS TARGET [WORK]: as mount_by_kernel; WORK: the overlay's working directory, if it has one
  local text code=0
  # The kernel leaves its own directory in there with mode 000, also where it has refused to mount. Root of this namespace
  # may open that on a local file system, not on NFS: there the server decides, and knows the user alone.
  if [[ -n ${4:-} && -d $4/work ]]; then chmod 700 "$4/work"; fi
  # It gives itself an option that it does not know, and says so each time. As a daemon it has these streams no more.
  text=$(cd "$1" && exec fuse-overlayfs -o "$2" "$3" 2>&1 </dev/null) || code=$?
  last_words "$text"
  LAST=${LAST#fuse-overlayfs: } LAST=${LAST:-it ended with $code}
  return "$code"
}

refuse_overlay() { # TOP KERNEL FUSE: neither has mounted it, for what they said: is it the node, or the volume?
  local top=$1 trial whole=''
  [[ $top == /* ]] || top=$LAYERS/$top
  if trial=$(mktemp -d "${top%/*}/.probe-XXXXXXXX"); then
    mkdir "$trial"/{lower,tree,work,merged}
    set -- "$@" "$trial" "lowerdir=lower,upperdir=tree,workdir=work"
    if mount_by_kernel "${@:4}" "$trial/merged" || mount_by_fuse "${@:4}" "$trial/merged" "$trial/work"; then
      umount "$trial/merged"
      whole=yes
    fi
    remove_tree "$trial"
  fi
  [[ -z $whole ]] || die "$BAD_VOLUMES" "neither the kernel nor fuse-overlayfs could mount $top: $2; $3"
  die "$UNFIT_NODE" "$SLURMD_NODENAME can mount no overlay in ${top%/*}. The kernel: $2. fuse-overlayfs: $3. Start the session\
 on another node (--exclude=$SLURMD_NODENAME), or ask your site for fuse-overlayfs and /dev/fuse on this one"
}

mount_overlay() { # TARGET TOP LOWER…: trees of layers, by the kernel if it does so here, else by FUSE; HOW, and REFUSAL: why not by the kernel
  local target=$1 top=${2%/tree} layer FROM=. NAMES IFS=: options
  HOW=kernel REFUSAL=''
  shift 2
  [[ -d $top/work ]] || mkdir -p "$top/tree" "$top/work"
  options="lowerdir=$*,upperdir=$top/tree,workdir=$top/work"
  if [[ ${#options} -ge $MOUNT_OPTIONS ]]; then
    shorten "$@"
    [[ $top == /* ]] || top=$LAYERS/$top
    options="lowerdir=$NAMES,upperdir=$top/tree,workdir=$top/work"
  fi
  # FUSE marks deletions in a way that the kernel does not know: its stacks stay its own.
  for layer in "$top/tree" "$@"; do
    if [[ -e ${layer%/tree}/fuse ]]; then HOW=fuse REFUSAL='not asked, as fuse-overlayfs wrote a layer of it'; fi
  done
  if [[ $HOW == kernel ]] && ! mount_by_kernel "$FROM" "$options" "$target"; then
    HOW=fuse REFUSAL=$LAST
    # Depth alone must not change how the session sees its files.
    if [[ $# -gt 1 ]] && mount_by_kernel . "lowerdir=${*: -1},upperdir=$top/tree,workdir=$top/work" "$target"; then
      umount "$target"
      die "$BAD_VOLUMES" "the kernel mounts overlays here, but not this one of $(($# + 1)) layers: berth flatten joins them"
    fi
    say "the kernel mounts no overlay here: $REFUSAL"
  fi
  if [[ $HOW == fuse ]]; then
    mount_by_fuse "$FROM" "$options" "$target" "$top/work" || refuse_overlay "$top" "$REFUSAL" "$LAST"
    : >"$top/fuse"
  fi
  MOUNTED=("$target" "${MOUNTED[@]}")
  say "${target##*/}: an overlay of $(($# + 1)) layers, mounted by $HOW"
}

mount_packed() { # LAYER: mounts a layer that is a squashfs as the tree of NODE_DIR/packed/LAYER
  local program=squashfuse_ll place=$NODE_DIR/packed/$1
  [[ ! -d $place ]] || return 0
  mkdir -p "$place"
  [[ ! -e $LAYERS/$1/fuse ]] || : >"$place/fuse"
  if [[ -s $LAYERS/$1/kept ]]; then # it has more than a squashfs can hold
    { find_python && type -P unsquashfs >/dev/null; } || die "$UNFIT_NODE" \
      "$SLURMD_NODENAME lacks Python 3.11 or unsquashfs, which unpack the layer $1 of this session's system: use another node"
    saves unpack "$LAYERS/$1" "$place/tree" || die "$BAD_VOLUMES" "the layer $1 could not be unpacked"
    return 0
  fi
  mkdir "$place/tree"
  hash squashfuse_ll 2>/dev/null || program=squashfuse
  "$program" "$LAYERS/$1/layer.squashfs" "$place/tree" || die "$BAD_VOLUMES" "the layer $1 could not be mounted"
  MOUNTED=("$place/tree" "${MOUNTED[@]}")
}

open_system() { # STACK: the trees of the system's layers, the top's first; in root mode without a top that lies on the node
  local layer stack=("${SYSTEM_STACK[@]}")
  STACK=()
  if [[ -n $ON_NODE ]]; then
    stack=("${SYSTEM_STACK[@]:1}")
    [[ -n $BERTH_ROOT ]] || STACK=("$NODE_DIR/top/tree")
  fi
  for layer in "${stack[@]}"; do
    if [[ -e $LAYERS/$layer/layer.squashfs ]]; then
      mount_packed "$layer"
      layer=$NODE_DIR/packed/$layer
    fi
    STACK+=("$layer/tree")
  done
}

mount_image() {
  local program=squashfuse_ll owner=,uid=0,gid=0 # everything is the user's, who may then change it in the overlay
  [[ -z $BERTH_ROOT ]] || owner=''
  hash squashfuse_ll 2>/dev/null || program=squashfuse
  "$program" -o "offset=$BERTH_IMAGE_OFFSET$owner" "$BERTH_IMAGE" "$NODE_DIR/image" ||
    die "$BAD_IMAGE" "the image $BERTH_IMAGE could not be mounted"
  MOUNTED=("$NODE_DIR/image")
}

site_binds() { # writes the binds of the site's apptainer.conf, where it is in its usual place
  local file line
  for file in "${BERTH_APPTAINER%/bin/*}/etc/apptainer/apptainer.conf" /etc/apptainer/apptainer.conf; do
    [[ -r $file ]] || continue
    while IFS= read -r line; do
      if [[ $line =~ ^\ *bind\ path\ *=\ *([^[:space:]]+) ]]; then printf '%s,' "${BASH_REMATCH[1]}"; fi
    done <"$file"
    return
  done
}

mount_points() { # POINTS: what Apptainer will mount something on: `d` or `f`, and the path
  local bind source rest kind
  POINTS=("d /dev" "d /proc" "d /sys" "d /tmp" "d /var/tmp" "d /home/$BERTH_OWNER" "d /run/berth/session" "d /run/berth/record"
    "d /run/berth/node" "f /etc/resolv.conf")
  while IFS= read -rd , bind; do
    [[ -n $bind ]] || continue
    source=${bind%%:*} rest=${bind#*:} kind=d
    [[ -d $source ]] || kind=f
    [[ ! -e $source ]] || POINTS+=("$kind ${rest%%:*}")
  done < <(
    printf '%s,' "$BERTH_BINDS"
    site_binds
  )
}

side_of() { # PATH: SIDE and PREFIX: `home` and where it is, for what is below it; `system` and nothing for all the rest
  SIDE=system PREFIX=''
  [[ $1 != "/home/$BERTH_OWNER/"* ]] || SIDE=home PREFIX=/home/$BERTH_OWNER
}

missing_points() { # SIDE TREE: FOLDERS and FILES: the mount points of a side that the tree lacks, as paths in it
  local point path
  FOLDERS=() FILES=()
  for point in "${POINTS[@]}"; do
    path=${point#* }
    side_of "$path"
    [[ $SIDE == "$1" ]] || continue
    inside "$2" "${path#"$PREFIX"}"
    [[ ! -e $2$FOUND ]] || continue
    if [[ $point == d* ]]; then FOLDERS+=("$FOUND"); else FILES+=("$FOUND"); fi
  done
}

make_points() { # ROOT: a view, or a tree that only this job has written to
  local file folders=("${FOLDERS[@]}" "${FILES[@]%/*}")
  [[ ${#folders[@]} -eq 0 ]] || mkdir -p -- "${folders[@]/#/$1}" || return 1
  for file in "${FILES[@]}"; do : >"$1$file" || return 1; done
}

mend_points() { # SIDE TREE: makes the mount points that the user has deleted there, or that the volume never had
  missing_points "$1" "$2"
  [[ ${#FOLDERS[@]} -gt 0 || ${#FILES[@]} -gt 0 ]] || return 0
  view "$2"
  make_points "$VIEW" || refuse "$2" "there is no place for ${FOLDERS[*]} ${FILES[*]}"
}

make_skeleton() { # a layer between image and volume: the mount points that the image lacks, sudo, apt's settings, the greeting
  local image=$NODE_DIR/image skeleton=$NODE_DIR/skeleton folder mode sudo='' apt='' profile=''
  local -A known=()
  missing_points system "$image"
  if [[ -z $BERTH_ROOT ]]; then
    inside "$image" /usr/local/bin && sudo=$FOUND
    inside "$image" /etc/apt/apt.conf.d && apt=$FOUND
    inside "$image" /etc/profile.d && profile=$FOUND
    [[ -d $image$sudo && ! -e $image$sudo/sudo && ! -L $image$sudo/sudo ]] || sudo=''
    [[ -d $image$apt ]] || apt=''
    [[ -d $image$profile ]] || profile=''
  fi
  FOLDERS+=(${sudo:+"$sudo"} ${apt:+"$apt"} ${profile:+"$profile"})
  make_points "$skeleton" || refuse "$image" "its links leave no place for ${FOLDERS[*]} ${FILES[*]}"
  [[ -z $sudo ]] || write_sudo "$skeleton$sudo/sudo"
  [[ -z $apt ]] || printf '%s\n' "${APT_SETTINGS[@]}" >"$skeleton$apt/95berth"
  [[ -z $profile ]] || write_greeting "$skeleton$profile/zz-berth-session.sh"
  # The image's own folders, which these are merged with, keep their rights.
  for folder in "${FOLDERS[@]}" "${FILES[@]%/*}"; do
    while [[ -n $folder ]]; do
      [[ ! -d $image$folder ]] || known[$image$folder]=yes
      folder=${folder%/*}
    done
  done
  while IFS=' ' read -rd '' mode folder; do
    [[ $mode == 755 ]] || chmod "$mode" "$skeleton${folder#"$image"}"
  done < <(stat --printf '%a %n\0' -- "$image" "${!known[@]}")
}

write_greeting() { # FILE: what a login shell reads: a terminal and a locale that the image knows, and what this session is
  cat >"$1" <<'GREETING'
# A Berth session's login shell. For no message at login: touch ~/.hushlogin
if [ -n "${TERM-}" ] && command -v infocmp >/dev/null && ! infocmp "$TERM" >/dev/null 2>&1; then
  export TERM=xterm-256color # most terminals that the image does not know are like it
fi
if [ -n "${BERTH_LANG-}" ]; then
  [ -n "${LANG-}" ] || export LANG="$BERTH_LANG"
  if [ -n "$(locale 2>&1 >/dev/null)" ]; then # it complains of what the image lacks
    {
      export LANG=C.UTF-8
      unset LC_ALL LC_CTYPE LC_COLLATE LC_MESSAGES LC_NUMERIC LC_TIME LC_MONETARY LC_PAPER LC_NAME LC_ADDRESS
      unset LC_TELEPHONE LC_MEASUREMENT LC_IDENTIFICATION
    } 2>/dev/null # bash complains of each that is still there
  fi
fi
berth_greeting() (
  gpu='no GPU'
  if [ "${SLURM_GPUS_ON_NODE:-0}" -gt 0 ]; then
    gpu="GPU ${SLURM_JOB_GPUS:-$SLURM_GPUS_ON_NODE of them}"
  elif [ "${SLURM_SHARDS_ON_NODE:-0}" -gt 0 ]; then
    gpu='a share of a GPU'
  fi
  echo "session   $BERTH_SESSION_NAME, ${BERTH_PROFILE:-no profile}${BERTH_PROFILE_VERSION:+@$BERTH_PROFILE_VERSION}"
  echo "node      ${SLURMD_NODENAME-}, $gpu"
  if [ -n "${SLURM_JOB_END_TIME-}" ]; then
    left=$(((SLURM_JOB_END_TIME - $(date +%s)) / 60))
    [ "$left" -ge 0 ] || left=0
    days='' hours=''
    [ "$left" -lt 1440 ] || days="$((left / 1440)) d "
    [ "$left" -lt 60 ] || hours="$((left % 1440 / 60)) h "
    echo "time left $days$hours$((left % 60)) min, until $(date -d "@$SLURM_JOB_END_TIME" '+%F %R')"
  fi
  [ -z "${BERTH_BEFORE-}" ] || echo "before    $BERTH_BEFORE"
  # How many, and of the newest its number, its time and its label.
  set -- $(sed -n 's/^ "newest": "\(.*\)",$/\1/p' /run/berth/record/volumes.json 2>/dev/null)
  if [ $# -ge 3 ]; then
    echo "snapshots $1, the last is $2${4:+ ($4)} of $(date -d "@$3" '+%F %R')"
  else
    echo "snapshots none"
  fi
  sed -n 's/^ "unflattened": "\(..*\)",\{0,1\}$/layers    cannot be joined: \1/p' /run/berth/record/volumes.json 2>/dev/null || :
)
case $- in
  *i*) # the ssh login's own shell, not one that a program in it opens
    [ -z "${SSH_TTY-}" ] || [ "${SHLVL:-1}" != 1 ] || [ ! -t 1 ] || [ -e "$HOME/.hushlogin" ] || berth_greeting
    ;;
esac
unset -f berth_greeting
GREETING
}

write_sudo() { # FILE: sudo without setuid, which no namespace of the user's can have: root where only the user exists
  cat >"$1" <<'SUDO'
#!/bin/sh
# sudo in a Berth session. All files are yours: this shows you as root to the programs that insist on it.
keep='' shell='' target=root
refuse() {
  echo "sudo: $1; in a session it takes [-EHinsS] [-u root|$(id -un)] [VAR=value] COMMAND" >&2
  exit 1
}
while [ $# -gt 0 ]; do
  case $1 in
    --) shift && break ;;
    -u | --user) target=${2-} && shift ;;
    -u*) target=${1#-u} ;;
    --user=*) target=${1#--user=} ;;
    --non-interactive | --set-home | --stdin) ;;
    -v | -k | -K | --validate | --reset-timestamp | --remove-timestamp) exit 0 ;; # there is no password
    --preserve-env*) keep=yes ;;
    --login) shell=login ;;
    --shell) shell=plain ;;
    - | -*[!EHinsS]*) refuse "it does not know $1" ;;
    -*)
      case $1 in *E*) keep=yes ;; esac
      case $1 in *i*) shell=login ;; *s*) shell=plain ;; esac
      ;;
    *) break ;;
  esac
  [ $# -eq 0 ] || shift
done
self=$(id -un)
case $target in
  root | "#0") root=yes ;;
  "$self" | "#$(id -u)") root='' ;;
  *) refuse "it makes you root, or leaves you $self, and knows no other user" ;;
esac
[ -z "$root" ] || command -v unshare >/dev/null || refuse "the image has no unshare (util-linux)"
said=$*
SUDO_UID=$(id -u) SUDO_GID=$(id -g) SUDO_USER=${USER-} SUDO_COMMAND=$said
export SUDO_UID SUDO_GID SUDO_USER SUDO_COMMAND
home=$HOME
if [ -n "$root" ]; then
  home=/root
  export USER=root LOGNAME=root PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
  [ -n "$keep" ] || export HOME=/root
fi
while :; do
  case ${1-} in [A-Za-z_]*=*) export "${1?}" && shift ;; *) break ;; esac
done
if [ -n "$shell" ]; then
  [ $# -eq 0 ] || set -- -c '"$@"' sudo "$@"
  [ $shell = plain ] || { cd "$home" && set -- -l "$@"; }
  set -- "${SHELL:-/bin/sh}" "$@"
fi
[ $# -gt 0 ] || refuse "there is no command"
[ -n "$root" ] || exec "$@"
packages=''
case ${1##*/} in
  apt | apt-get | aptitude | dpkg)
    for word in "$@"; do
      case $word in *install | *upgrade | *remove | *purge | build-dep | --unpack | --configure | -i | -r | -P) packages=yes ;; esac
    done
    ;;
esac
# dpkg makes each folder with mode 0 first, and would leave a package half installed where that is refused.
trial=/.sudo-$$
if [ -n "$packages" ] && mkdir "$trial" 2>/dev/null && rmdir "$trial" && ! mkdir -m 0 "$trial" 2>/dev/null; then
  echo "sudo: packages cannot be installed or removed in here: the file system under this session makes no folder without" \
    "write permission. Nothing was changed. Do it from outside of the session:" \
    "berth exec --root ${BERTH_SESSION_NAME:-NAME} -- $said" >&2
  exit 1
fi
[ ! -d "$trial" ] || rmdir "$trial"
unshare --map-root-user -- "$@"
code=$?
if [ $code -gt 0 ] && [ $code -lt 126 ] && [ -n "$said" ]; then
  echo "sudo: if that failed over a user, a group or a setuid file, do it from outside of the session:" \
    "berth exec --root ${BERTH_SESSION_NAME:-NAME} -- $said" >&2
fi
exit $code
SUDO
  chmod 755 "$1"
}

mount_system() { # the root of the session
  local below=("$NODE_DIR/skeleton" "$NODE_DIR/image")
  if [[ -n $BERTH_ROOT ]]; then # the volume stays as it is until all has gone well
    mount_overlay "$NODE_DIR/root" "$NODE_DIR/system/tree" "${STACK[@]}" "${below[@]}"
  elif [[ $BERTH_SYSTEM == fresh ]]; then
    mount_overlay "$NODE_DIR/root" "$NODE_DIR/system/tree" "${below[@]}"
  else
    mount_overlay "$NODE_DIR/root" "${STACK[@]}" "${below[@]}"
  fi
  mend_points system "$NODE_DIR/root"
}

mount_home() { # VOLUME: where the home's volume is; HOME_DIR: what the session gets as its home
  local content
  if [[ $DRIVER == overlay ]]; then
    VOLUME=$NODE_DIR/home
    mount_overlay "$VOLUME" "${HOME_STACK[@]/%//tree}" "$NODE_DIR/empty"
  else
    VOLUME=$LAYERS/${HOME_STACK[0]}/tree
  fi
  HOME_DIR=$VOLUME
  [[ $BERTH_HOME == keep ]] || HOME_DIR=$NODE_DIR/fresh/home
  shopt -s nullglob dotglob
  content=("$HOME_DIR"/*)
  shopt -u nullglob dotglob
  inside "$NODE_DIR/image" /etc/skel
  SKEL=$FOUND
  if [[ ${#content[@]} -eq 0 && -d $NODE_DIR/image$SKEL ]]; then
    view "$NODE_DIR/image" && content=("$VIEW$SKEL")
    view "$HOME_DIR"
    cp -RT -- "${content[0]}" "$VIEW" || refuse "$HOME_DIR" "the home could not be filled from the image's $SKEL"
  fi
}

except() { # SIDE VOLUME PLACE: adds to EXCEPTIONS what is kept, or fresh, against this side's rule; PLACE in the image
  local rule=BERTH_${1^^} path from inner tree list=$BERTH_FRESH
  [[ ${!rule} == keep ]] || list=$BERTH_KEEP
  while IFS= read -rd , path; do
    side_of "$path"
    [[ -n $path && $SIDE == "$1" ]] || continue
    inner=${path#"$PREFIX"} from=$NODE_DIR/fresh/$SIDE-${#EXCEPTIONS[@]}
    if [[ ${!rule} == keep ]]; then
      begin_as_image "$3" "$inner" "$from"
    else
      view "$2" && tree=$VIEW
      inside "$2" "$inner" && inner=$FOUND
      if [[ ! -e $tree$inner ]]; then
        mkdir -p -- "$tree${inner%/*}" || refuse "$2" "there is no place for $path"
        begin_as_image "$3" "${path#"$PREFIX"}" "$tree$inner"
      fi
      pin "$2" "$inner" "$from"
    fi
    EXCEPTIONS+=("$from:$path")
    if [[ -d $from ]]; then POINTS+=("d $path"); else POINTS+=("f $path"); fi
  done <<<"$list,"
}

begin_as_image() { # PLACE PATH TARGET: makes TARGET as what the image has there, or else an empty folder
  local copied
  inside "$NODE_DIR/image$1" "$2" && copied=$1$FOUND
  view "$NODE_DIR/image"
  if [[ -e $VIEW$copied ]]; then cp -aT -- "$VIEW$copied" "$3"; else mkdir -- "$3"; fi ||
    refuse "$NODE_DIR/image" "$2 could not be copied"
}

bind_exceptions() { # TREE: adds to BINDS what can be bound over the tree
  local each path from
  for each in "${EXCEPTIONS[@]}"; do
    from=${each%%:*} path=${each#*:}
    side_of "$path"
    inside "$1" "${path#"$PREFIX"}"
    if [[ -d $from && -d $1$FOUND || ! -d $from && ! -d $1$FOUND ]]; then
      BINDS+=(--bind "$each")
    else
      say "warning: $path stays as it is: a folder cannot be mounted on a file, nor a file on a folder"
    fi
  done
  EXCEPTIONS=()
}

check_accounts() { # Apptainer reads these two before it is in the container, by their links as the node sees them
  local file tree=$NODE_DIR/root
  for file in /etc/passwd /etc/group; do
    inside "$tree" "$file"
    [[ -e $tree$file && ! $tree$file -ef $tree$FOUND ]] || continue
    inside "$NODE_DIR/image" "$file"
    [[ $FOUND == "$file" ]] || tree=$NODE_DIR/image
    refuse "$tree" "$file is a link that leads to a file of the node's"
  done
}

mount_all() { # HOME_DIR, BINDS
  local STACK=()
  mkdir -p "$NODE_DIR"/{image,skeleton,root,home,kept,empty,fresh/home,view/{0..4}} # a view each of five trees
  cd "$LAYERS" # so that a stack's names stay short: the kernel takes one page of them
  mount_image
  mount_points
  if [[ -z $BERTH_ROOT ]]; then
    if [[ $BERTH_SYSTEM == fresh && -n $BERTH_KEEP ]]; then
      open_system
      mount_overlay "$NODE_DIR/kept" "${STACK[@]}" "$NODE_DIR/image"
    fi
    except system "$NODE_DIR/kept" ''
  fi
  make_skeleton
  [[ -z $BERTH_ROOT && $BERTH_SYSTEM == fresh ]] || open_system
  mount_system
  check_accounts
  bind_exceptions "$NODE_DIR/root"
  mount_home
  except home "$VOLUME" "$SKEL"
  mend_points home "$HOME_DIR"
  bind_exceptions "$HOME_DIR"
  if [[ -n $BERTH_ROOT ]]; then # what root does there could not be taken back, and may belong to ids that the user is not
    mount --bind "$HOME_DIR" "$HOME_DIR"
    mount -o remount,bind,ro "$HOME_DIR"
    MOUNTED=("$HOME_DIR" "${MOUNTED[@]}")
  fi
}

pass() { # SIGNAL
  [[ -z $CHILD ]] || kill "-$1" "$CHILD" 2>/dev/null || :
}

hold() { # LOWEST HIGHEST
  local code=0 home=/home/$BERTH_OWNER as=(unshare --user --map-user="$OWNER_UID" --map-group="$OWNER_GID")
  local -A VIEWS=()
  : >"$NODE_DIR/held"
  CHILD='' MOUNTED=() BINDS=() EXCEPTIONS=()
  trap 'TOLD=yes; pass TERM' TERM
  trap 'pass USR1' USR1
  trap '[[ ${#MOUNTED[@]} -eq 0 ]] || umount -l "${MOUNTED[@]}"' EXIT # which ends the FUSE processes too
  umask 022
  mount_all
  [[ -z ${TOLD:-} ]] || exit 0
  [[ ! -d /dev/dri ]] || BINDS+=(--bind /dev/dri)
  [[ -z $BERTH_BINDS ]] || BINDS+=(--bind "$BERTH_BINDS")
  [[ -z $BERTH_ROOT ]] || as=()
  # --pid --no-init: enter() is process 1, so nothing of the session outlives it.
  # --workdir: /tmp and /var/tmp lie in the node's own storage; Apptainer's default is 64 MB of memory.
  "${as[@]}" "$BERTH_APPTAINER" -q exec --contain --pid --no-init --no-umask --no-eval --workdir "$NODE_DIR" \
    --home "$HOME_DIR:$home" --cwd "$home" --bind "$DIRECTORY/run:/run/berth/session:ro" \
    --bind "$DIRECTORY:/run/berth/record:ro" \
    --bind "$NODE_DIR/run:/run/berth/node" "${BINDS[@]}" \
    --writable "$NODE_DIR/root" /bin/bash /run/berth/node/enter "$@" &
  CHILD=$!
  while :; do
    code=0
    wait "$CHILD" || code=$?
    if ((code <= 128)) || ! kill -0 "$CHILD" 2>/dev/null; then exit "$code"; fi # else a signal ended wait
  done
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
        BERTH_IMAGE | BERTH_IMAGE_SIZE | BERTH_IMAGE_OFFSET | BERTH_BINDS | BERTH_HOME | BERTH_SYSTEM | BERTH_KEEP | \
        BERTH_FRESH | BERTH_ROOT | BERTH_SAVE_EVERY | BERTH_BEFORE | BERTH_PORTS | BERTH_SUBMISSION_DIRECTORY | BERTH_LOCK_WAIT | BERTH_APPTAINER | BERTH_SCONTROL)
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
  require BERTH_IMAGE_OFFSET '[0-9]+'
  require BERTH_HOME 'keep|fresh'
  require BERTH_SYSTEM 'keep|fresh'
  require BERTH_KEEP "|$path(,$path)*"
  require BERTH_FRESH "|$path(,$path)*"
  require BERTH_ROOT '|yes'
  require BERTH_SUBMISSION_DIRECTORY '|yes'
  require BERTH_BINDS "|$path:$path(:ro)?(,$path:$path(:ro)?)*"
  require BERTH_LOCK_WAIT '[0-9]{1,4}'
  require BERTH_SAVE_EVERY '[1-9][0-9]{0,6}'
  require BERTH_PORTS '[1-9][0-9]{3,4}-[1-9][0-9]{3,4}'
  ((${BERTH_PORTS%-*} <= ${BERTH_PORTS#*-} && ${BERTH_PORTS#*-} <= 65535)) || die "$BAD_JOB_ENV" "run/job.env: BERTH_PORTS"
  case ,$BERTH_KEEP,$BERTH_FRESH, in
    *,/,* | *,/home,* | *,/home/"$BERTH_OWNER",*)
      die "$BAD_JOB_ENV" "run/job.env: a whole side is in BERTH_KEEP or BERTH_FRESH"
      ;;
  esac
  [[ $BERTH_OWNER == "$(id -un)" ]] || die "$BAD_JOB_ENV" "run/job.env: the owner is $BERTH_OWNER, not you"
}

load_job_env() {
  BERTH_BINDS='' BERTH_LOCK_WAIT=10 BERTH_PORTS=20000-32767 BERTH_APPTAINER=apptainer BERTH_SCONTROL=scontrol
  BERTH_PROFILE='' BERTH_PROFILE_VERSION='' BERTH_BEFORE='' BERTH_HOME=keep BERTH_SYSTEM=keep BERTH_KEEP='' BERTH_FRESH='' BERTH_ROOT=''
  BERTH_SAVE_EVERY=600
  [[ -O $DIRECTORY/run/job.env && -f $DIRECTORY/run/job.env ]] || die "$BAD_JOB_ENV" "no $DIRECTORY/run/job.env of yours"
  read_job_env "$DIRECTORY/run/job.env"
  check_job_env
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

take_lock() { # one writer: whoever has run/lock has the volumes; kept until this process ends, however it ends
  local lock waiter code
  exec {lock}<>"$DIRECTORY/run/lock" # for reading and writing, as NFS wants it: flock(2)
  ! flock -n "$lock" || return 0
  say "another job has the volumes of this session open; it gets $BERTH_LOCK_WAIT s to end"
  flock -w "$BERTH_LOCK_WAIT" "$lock" & # in the background, so that we can be told to end
  waiter=$!
  until code=0 && wait "$waiter" || code=$?; ((code == 0)) || ! kill -0 "$waiter" 2>/dev/null; do :; done
  ((code == 0)) || die "$LOCKED" "another job has the volumes of this session open"
}

read_volumes() { # DRIVER, HOME_STACK and SYSTEM_STACK: layer ids, the top first and the oldest last; ON_NODE; under the lock
  local line file=$DIRECTORY/volumes.json id='[0-9a-z]{26}' mount='' submission=0 handover='' begun=0
  [[ -r $file ]] || die "$BAD_VOLUMES" "there is no $file"
  while IFS= read -r line; do
    if [[ $line =~ ^[[:space:]]*\"mount\":\ *\"([^\"]*)\",?$ ]]; then mount=${BASH_REMATCH[1]}; fi
    if [[ $line =~ ^[[:space:]]*\"mount\ ([1-9][0-9]{0,8})\":\ *\"([^\"]*)\",?$ ]]; then
      submission=${BASH_REMATCH[1]} handover=${BASH_REMATCH[2]}
    fi
  done <"$file"
  read -r begun 2>/dev/null <"$DIRECTORY/run/begun" || :
  [[ $begun =~ ^[1-9][0-9]{0,8}$ ]] || begun=0
  if ((submission > 0 && begun >= submission)); then
    mount=$handover
  elif ((submission > 0 && submission == ${BERTH_SUBMISSION:-0})) && begin_handover "$handover"; then
    mount=$handover
  fi
  [[ $mount =~ ^(overlay|reflink|plain)\;home=($id(,$id)*)\;system=($id(,$id)*)(\;node)?$ ]] ||
    die "$BAD_VOLUMES" "$file has no line \"mount\" that says what to mount"
  DRIVER=${BASH_REMATCH[1]}
  line=${BASH_REMATCH[4]} ON_NODE=${BASH_REMATCH[6]:+yes}
  IFS=, read -ra HOME_STACK <<<"${BASH_REMATCH[2]}"
  IFS=, read -ra SYSTEM_STACK <<<"$line"
  for id in "${HOME_STACK[@]}" "${SYSTEM_STACK[@]}"; do
    [[ -d $LAYERS/$id/tree || -e $LAYERS/$id/layer.squashfs ]] || die "$BAD_VOLUMES" "the layer $LAYERS/$id is missing or has no tree"
  done
}

begin_handover() { # MOUNT: has it last, before anything is written to new tops, that this submission's job does so
  local old new tops part
  IFS=';' read -ra tops <<<"$1"
  for part in "${tops[@]:1}"; do # the new top's root is as the old one's was at its end
    IFS=, read -r new old _ <<<"${part#*=}"
    [[ ! -d $LAYERS/$new/tree || ! -d $LAYERS/$old/tree ]] || dress_root "$LAYERS/$old/tree" "$LAYERS/$new/tree"
  done
  # Without room for that it goes on as it was.
  { echo "$BERTH_SUBMISSION" >"$DIRECTORY/run/begun.new" && sync "$DIRECTORY/run/begun.new"; } || return 1
  if ! mv -f "$DIRECTORY/run/begun.new" "$DIRECTORY/run/begun" || ! sync "$DIRECTORY/run"; then
    die "$BAD_VOLUMES" "$DIRECTORY/run/begun could not be written"
  fi
}

dress_root() { # OLD NEW: gives a folder the mode, the times, the attributes and the access lists of another
  local kept=(--acls --xattrs --xattrs-include='user.*' --xattrs-exclude='user.overlay.*')
  # The launcher has done so when it made the folder: without tar, only what has changed since then is missing.
  chmod --reference="$1" "$2" && touch --reference="$1" "$2"
  ! type -P tar >/dev/null || { tar --no-recursion "${kept[@]}" -C "$1" -c . | tar "${kept[@]}" -C "$2" -xp; } || :
}

make_node_dir() { # NODE_DIR: what must not lie on the shared file system; ours alone
  local base=${SLURM_TMPDIR:-/tmp} old
  for old in "$base/berth-$UID-$BERTH_SESSION_ID".*; do # of a run that was killed; the lock says that it is over
    if [[ -d $old && -O $old && ! -L $old ]]; then remove_tree "$old"; fi
  done
  NODE_DIR=$(mktemp -d "$base/berth-$UID-$BERTH_SESSION_ID.XXXXXXXX") || die "$NO_NODE_DIR" "no directory in $base"
  mkdir -m 700 "$NODE_DIR/run"
}

remove_tree() { # DIRECTORY: also where a build left folders without write permission, or root mode files of other ids
  rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwX -- "$1" && rm -rf -- "$1"; } 2>/dev/null ||
    unshare --user --map-root-user --map-users auto --map-groups auto rm -rf -- "$1" ||
    say "warning: $1 could not be removed"
}

refuse_namespace() {
  local root="; root mode needs a line of yours in /etc/subuid and /etc/subgid (usermod --add-subuids), util-linux 2.38"
  die "$UNFIT_NODE" "$SLURMD_NODENAME made no user namespace, as said above${BERTH_ROOT:+$root}"
}

trim_log() { # Slurm has opened the log for appending, so cutting it back in place is safe
  local log=$DIRECTORY/run/job.log size
  size=$(stat -c %s -- "$log" 2>/dev/null || echo 0)
  ((size > LOG_LIMIT)) || return 0
  tail -c $((LOG_LIMIT / 4)) -- "$log" >"$NODE_DIR/log" && cat "$NODE_DIR/log" >"$log" && rm -f "$NODE_DIR/log"
}

check_node() {
  local needed=("$BERTH_APPTAINER" "$BERTH_SCONTROL" ssh-keygen unshare nsenter mount umount)
  type -P "${needed[@]}" >/dev/null || die "$UNFIT_NODE" "$SLURMD_NODENAME lacks one of ${needed[*]}"
  [[ -n $(type -P squashfuse_ll squashfuse) ]] || die "$UNFIT_NODE" "$SLURMD_NODENAME lacks squashfuse"
  [[ -n $BERTH_ROOT ]] || return 0
  type -P newuidmap newgidmap >/dev/null || die "$UNFIT_NODE" \
    "$SLURMD_NODENAME lacks newuidmap and newgidmap: root mode needs the package uidmap (shadow-utils) on the nodes"
}

check_version() {
  local version
  version=$("$BERTH_APPTAINER" --version) && version=${version##* }
  printf '%s\n' "$OLDEST_APPTAINER" "${version%%-*}" | sort -CV ||
    say "warning: Apptainer $version is older than $OLDEST_APPTAINER, which lost files in overlays before"
}

find_oom_counter() { # CGROUPS: OOM_COUNTER: the file in which the kernel counts the processes of this job that it killed for memory
  # Standard input is /proc/self/cgroup. Slurm's directory of a job has those of its steps in it. It is named job_ID or,
  # since Slurm 26.05 with version 2, by the job's SLUID: `s` and 13 digits of base 32.
  local controllers path mount file job step='' name="job_$SLURM_JOB_ID|${SLURM_JOB_SLUID:-none}|s[0-9A-HJKMNP-TV-Z]{13}"
  OOM_COUNTER=/dev/null
  while IFS=: read -r _ controllers path; do
    case ,$controllers, in
      *,memory,*) mount=$1/memory file=memory.oom_control ;; # version 1
      ,,) mount=$1 file=memory.events ;;                     # version 2: the leaf may lack the controller
      *) continue ;;
    esac
    [[ $path =~ ^(.*/($name))/step_[^/]+(/|$) ]] || continue
    job=${BASH_REMATCH[1]} step=$path
    while [[ ! -r $mount$path/$file && $path != "$job" ]]; do path=${path%/*}; done
    if [[ -r $mount$path/$file ]]; then OOM_COUNTER=$mount$path/$file; fi
  done
  [[ -z $step || $OOM_COUNTER != /dev/null ]] ||
    say "warning: nothing counts out-of-memory kills in $step: one in this session goes unnoticed"
}

check_memory() { # a session that lost a process to the memory limit is no longer whole: it ends, and Slurm says why
  local key value
  while read -r key value; do
    [[ $key != oom_kill || $value == 0 ]] || die "$OUT_OF_MEMORY" "out of memory: a process of the session was killed"
  done <"$OOM_COUNTER"
}

read_host_key() { # FINGERPRINT, of the private key: sshd proves that one, and the file .pub beside it may say anything
  local key=$DIRECTORY/run/ssh_host_ed25519_key
  read -r _ FINGERPRINT _ < <(ssh-keygen -yP '' -f "$key" | ssh-keygen -lf -) ||
    die "$BAD_DIRECTORY" "the host key $key cannot be used: a stop and a start of the session make another"
}

announce() { # PORT USE: as often as it takes, since an outage of slurmctld must not cost the session
  local pause=1 comment
  comment=berth:$BERTH_SESSION_ID:$BERTH_SUBMISSION:${SLURM_RESTART_COUNT:-0}:$SLURMD_NODENAME:$1:$FINGERPRINT$2
  until timeout 60 "$BERTH_SCONTROL" update "JobId=$SLURM_JOB_ID" "Comment=$comment"; do
    say "Slurm did not take the announcement, next try in $pause s"
    sleep "$pause"
    pause=$((pause * 2 < ANNOUNCE_PAUSE_MAX ? pause * 2 : ANNOUNCE_PAUSE_MAX))
  done
  say "announced $comment"
}

find_process_one() { # FIRST: the id, seen from the node, of process 1 of the session's PID namespace
  local queue=("$CONTAINER") pid file key ids
  while [[ ${#queue[@]} -gt 0 ]]; do
    pid=${queue[0]} queue=("${queue[@]:1}")
    while read -r key ids; do
      if [[ $key == NSpid: && $ids == *[[:blank:]]1 ]]; then
        FIRST=$pid
        return 0
      fi
    done 2>/dev/null <"/proc/$pid/status" || : # the process has ended
    for file in "/proc/$pid/task/"*/children; do # Apptainer starts process 1 from any of its threads
      if read -ra ids 2>/dev/null <"$file" || [[ -n ${ids:-} ]]; then queue+=("${ids[@]}"); fi
    done
  done
  return 1
}

move_process_ids() { # has the session's process ids go on from another place than in its earlier jobs
  # The home outlives the job: a PID file of an earlier job must not name a process that lives now. Successive runs lie
  # far apart by the golden ratio. ns_last_pid is that of the writer's PID namespace: proc(5).
  local most=32768 run=$(((BERTH_SUBMISSION * 7 + ${SLURM_RESTART_COUNT:-0}) * 618034 % 1000000)) FIRST
  read -r most </proc/sys/kernel/pid_max || :
  run=$((LOWEST_ID + run * (most - 2 * LOWEST_ID) / 1000000))
  # The job's user owns the session's user namespaces.
  # shellcheck disable=SC2016 # expanded by the shell in the namespace
  if ! find_process_one || ! nsenter --target "$CONTAINER" --user --preserve-credentials -- \
    nsenter --target "$FIRST" --pid --preserve-credentials -- bash -c 'echo "$1" >/proc/sys/kernel/ns_last_pid' move "$run"; then
    say "warning: this kernel does not set process ids: they begin at the lowest in each job"
  fi
}

start_container() { # CONTAINER: the process of hold(); LOG: what it and all below it say
  local map=() id owners=()
  [[ -z $BERTH_ROOT ]] || map=(--map-users auto --map-groups auto)
  {
    declare -p UNFIT_NODE BAD_CONTENT STOP_GRACE BIND_TRIES STILL_WAIT STILL_LIMIT UNSEEN BUSY_PERCENT USER_HZ \
      BERTH_ROOT
    echo 'set -euo pipefail'
    declare -f say die login_environment is_for_logins has_locales sshd_config adapt_accounts apply_owners through_link \
      leave look_at_processes threads_stand_still stop_all stand_still tell_terminals processor_time gpu_work \
      look_at_use serve enter
    echo 'enter "$@"'
  } >"$NODE_DIR/run/enter"
  {
    declare -p BAD_IMAGE BAD_VOLUMES UNFIT_NODE MOST_LINKS MOUNT_OPTIONS DIRECTORY LAYERS NODE_DIR DRIVER HOME_STACK \
      SYSTEM_STACK ON_NODE OWNER_UID OWNER_GID APT_SETTINGS "${!BERTH_@}"
    echo 'set -euo pipefail'
    declare -f say die refuse inside view follows_no_link pin shorten last_words mount_by_kernel mount_by_fuse remove_tree \
      refuse_overlay mount_overlay find_python saves mount_packed open_system mount_image site_binds mount_points \
      side_of missing_points make_points mend_points make_skeleton write_greeting write_sudo mount_system mount_home except \
      begin_as_image bind_exceptions check_accounts mount_all pass hold
    echo 'hold "$@"'
  } >"$NODE_DIR/hold"
  if [[ -n $BERTH_ROOT ]]; then
    for id in "${SYSTEM_STACK[@]/#/"$LAYERS/"}"; do
      [[ ! -f $id/owners ]] || owners=("$id/owners" "${owners[@]}") # the oldest first
    done
    [[ ${#owners[@]} -eq 0 ]] || cat "${owners[@]}" >"$NODE_DIR/run/owners"
  fi
  exec {LOG}< <(
    exec unshare --user --map-root-user "${map[@]}" --mount /bin/bash "$NODE_DIR/hold" \
      "${BERTH_PORTS%-*}" "${BERTH_PORTS#*-}" 2>&1
  )
  CONTAINER=$!
}

ask_end() { # ENDS_AT: when the job's time limit ends it, in seconds since the epoch, or what was known before
  local text
  text=$(timeout 20 "$BERTH_SCONTROL" show job -o "$SLURM_JOB_ID") || return 0
  [[ $text =~ [[:space:]]EndTime=([0-9T:-]+) ]] || return 0
  ENDS_AT=$(date -d "${BASH_REMATCH[1]}" +%s) || return 0
}

keep_time() { # when LOOK_AT has come: warns, or ends the session in good order, before Slurm ends it in another way
  local left early due=''
  ((EPOCHSECONDS >= LOOK_AT)) || return 0
  ask_end # it may have been changed since
  left=$((ENDS_AT - EPOCHSECONDS))
  if ((left <= END_EARLY)); then
    say "the time is up"
    LOOK_AT=$NEVER
    stop
    return 0
  fi
  LOOK_AT=$((ENDS_AT - END_EARLY))
  for early in "${WARN_EARLY[@]}"; do
    if ((left > early)); then
      LOOK_AT=$((ENDS_AT - early))
      break
    fi
    due=$early
  done
  if [[ -n $due && $WARNED_OF != "$ENDS_AT $due" ]]; then
    WARNED_OF="$ENDS_AT $due"
    warn "$left"
  fi
}

seconds_of() { # TIME: SECONDS_OF: such as 8h in seconds; 0 for anything else
  SECONDS_OF=0
  case $1 in
    [!1-9]* | *[!0-9mhd]* | *[mhd]?*) ;;
    *m) SECONDS_OF=$((${1%m} * 60)) ;;
    *h) SECONDS_OF=$((${1%h} * 3600)) ;;
    *d) SECONDS_OF=$((${1%d} * 86400)) ;;
  esac
}

keep_watch() { # when WATCH_AT has come: has the job's comment say since when nothing uses the session, or its GPU
  local limit='' stop_at='' after=$IDLE_AFTER used='' gpu='' looked='' use=''
  ((EPOCHSECONDS >= WATCH_AT)) && [[ -n ${PORT:-} && -z $BERTH_ROOT ]] || return 0
  { read -r limit && read -r stop_at; } 2>/dev/null <"$DIRECTORY/run/idle" || :
  seconds_of "$limit"
  ((SECONDS_OF == 0 || SECONDS_OF / 4 > after)) || after=$((SECONDS_OF / 4))
  WATCH_AT=$((EPOCHSECONDS + (after / 4 < USE_EVERY ? after / 4 : USE_EVERY)))
  take_use
  if [[ $stop_at =~ ^[0-9]{1,12}$ && $stop_at != "$TOLD_STOP" ]]; then
    TOLD_STOP=$stop_at
    tell_idle "$stop_at"
  fi
  leave_word look '' || :
  kill -USR1 "$CONTAINER" 2>/dev/null || : # the answer is there the next time
  [[ $used$looked =~ ^[0-9]{2,24}$ ]] || return 0
  ((EPOCHSECONDS - looked <= UNSEEN)) || used=$EPOCHSECONDS gpu=''
  ((EPOCHSECONDS - used >= after)) || used=''
  [[ $gpu =~ ^[0-9]{1,12}$ ]] && ((EPOCHSECONDS - gpu >= after)) || gpu=''
  [[ -z $used$gpu ]] || use=:$used:$gpu
  # One after the other: the older word must not come last.
  if [[ $use != "$TOLD_USE" && $'\n'$(jobs -rp)$'\n' != *$'\n'"$ANNOUNCER"$'\n'* ]]; then
    TOLD_USE=$use
    announce "$PORT" "$use" &
    ANNOUNCER=$!
  fi
}

# The session may write in run/ of NODE_DIR, which it sees as /run/berth/node, and put links there. So the job, to which /
# is the node's, opens nothing in there: what it writes it moves in, and what it reads it has moved out before.

leave_word() { # NAME TEXT: for process 1 of the container
  printf %s "$2" >"$NODE_DIR/word.$BASHPID" && mv -fT "$NODE_DIR/word.$BASHPID" "$NODE_DIR/run/$1"
}

take_use() { # `used`, `gpu` and `looked` of the caller's: what process 1 of the container has last written of them
  mv -fT "$NODE_DIR/run/use" "$NODE_DIR/use" 2>/dev/null || :
  [[ -f $NODE_DIR/use && ! -L $NODE_DIR/use ]] || return 0
  read -r used gpu looked < <(head -c "$WORD_LIMIT" "$NODE_DIR/use" | tr -d '\0') || :
}

tell_idle() { # TIME: at which the session is stopped unless it is used
  local at text
  printf -v at '%(%H:%M:%S)T' "$1"
  SAVE_AT=0
  text="nothing uses this session: it is stopped at $at, and keeps its files, unless something does"
  say "$text"
  leave_word notice $'\r\n'"berth: $BERTH_SESSION_NAME: $text"$'\r\n' || :
}

warn() { # SECONDS: tells the log and the terminals what happens then
  local at text sequel=''
  printf -v at '%(%H:%M:%S)T' "$ENDS_AT"
  text="the time limit of job $SLURM_JOB_ID ends it at $at, in $1 s" SAVE_AT=0
  say "$text"
  read -r sequel 2>/dev/null <"$DIRECTORY/run/continuation" || :
  case $sequel in
    always) sequel="The session goes on in another job at once: connect again then." ;;
    *[mhd]) sequel="If it was used in the last $sequel, the session goes on in another job at once." ;;
    *) sequel="The session stops then, and keeps its files." ;;
  esac
  leave_word notice $'\r\n'"berth: $BERTH_SESSION_NAME: $text"$'\r\n'"berth: $sequel"$'\r\n' || :
  [[ -z ${LISTENS:-} ]] || kill -USR1 "$CONTAINER" 2>/dev/null || :
}

follow_container() { # copies the container's words to the job's log until it has ended
  local line part='' count=0 announced='' ended pause
  while :; do
    ended=0 pause=$((LOOK_AT - EPOCHSECONDS))
    ((pause < TICK)) || pause=$TICK
    ((pause > 0)) || pause=0.1
    IFS= read -r -t "$pause" -u "$LOG" line || ended=$?
    part+=$line
    check_memory
    keep_time
    keep_watch
    keep_saved
    if ((ended > 128)); then # nothing said for a while; a line may be half read
      [[ -z ${STOPPING:-} ]] || kill -TERM "$CONTAINER" 2>/dev/null || :
      continue
    fi
    ((ended == 0)) || break
    line=${part%$'\r'} part=''
    printf '%s\n' "$line" || :
    if [[ -z $announced && $line =~ ^"Server listening on "[^\ ]+" port "([0-9]+)\.$ ]]; then
      announced=yes LISTENS=yes PORT=${BASH_REMATCH[1]} WATCH_AT=$((EPOCHSECONDS + 5)) # whoever waits for it comes first
      { move_process_ids && announce "$PORT" '' && check_version; } &
      ANNOUNCER=$!
    fi
    if ((++count % LOG_CHECK == 0)); then trim_log || :; fi
  done
}

read_request() { # sets the array ASKED from run/copy.request
  local key value
  while IFS='=' read -r key value; do
    case $key in
      ID) [[ $value =~ ^[A-Za-z0-9._-]+$ ]] || continue ;;
      HOME | SYSTEM | HOME_PREVIOUS | SYSTEM_PREVIOUS) [[ $value =~ ^[0-9a-z]{26}$ ]] || continue ;;
      *) continue ;;
    esac
    ASKED[$key]=$value
  done <"$DIRECTORY/run/copy.request"
}

answer_request() { # writes run/copy.outcome in one go, over what is there: a full disk has no room for another file
  local text
  end_programs
  MESSAGE=${MESSAGE:0:300}
  say "copy ${ASKED[ID]}: $RESULT, $PAUSE s${MESSAGE:+: $MESSAGE}"
  printf -v text '%s\n' "RESULT=$RESULT" "PAUSE=$PAUSE" "MESSAGE=$MESSAGE" "ID=${ASKED[ID]}"
  printf "%-${OUTCOME_SIZE}s" "$text" 1<>"$DIRECTORY/run/copy.outcome"
}

copy_live() { # USR2: copies the tops of the running session as run/copy.request says; in the background, one at a time
  local turn what source target previous pairs=() RESULT=failed PAUSE=0.000 MESSAGE='the session ended' COPIER='' PACKER=''
  local -A ASKED=()
  trap - USR1 USR2
  if [[ -n ${LISTENS:-} ]]; then exec {turn}>"$NODE_DIR/copying" && flock "$turn"; fi
  read_request
  [[ -n ${ASKED[ID]:-} ]] || die 0 "USR2, and no request to copy in run/copy.request"
  if grep -qsxF "ID=${ASKED[ID]}" "$DIRECTORY/run/copy.outcome"; then exit 0; fi # done in an earlier one's turn
  trap answer_request EXIT
  trap 'exit 0' TERM
  [[ -n ${LISTENS:-} ]] || { MESSAGE="the session has only begun to start" && exit 0; }
  for what in HOME SYSTEM; do
    [[ -n ${ASKED[$what]:-} ]] || continue
    if [[ $what == HOME ]]; then source=${HOME_STACK[0]}; else source=${SYSTEM_STACK[0]}; fi
    source=$LAYERS/$source/tree target=$LAYERS/${ASKED[$what]} previous=${ASKED[${what}_PREVIOUS]:-}
    previous=${previous:+$LAYERS/$previous}
    if [[ -n $BERTH_ROOT ]]; then
      [[ $what == SYSTEM ]] || { MESSAGE="in root mode the home is not copied" && exit 0; }
      source=$NODE_DIR/system/tree
    fi
    if [[ -n $ON_NODE && $what == SYSTEM ]]; then
      [[ -n $BERTH_ROOT ]] || source=$NODE_DIR/top/tree
      begin_save
      target=$NODE_DIR/live.new previous=$NODE_DIR/live
    fi
    pairs+=("$source" "$target" "$previous")
  done
  copy_pairs "${pairs[@]}"
  if [[ -n $ON_NODE && -n ${ASKED[SYSTEM]:-} && $RESULT != failed ]]; then
    if [[ -n $BERTH_ROOT ]]; then
      pack_copy store "$LAYERS/${ASKED[SYSTEM]}" "$NODE_DIR/live"
    else
      pack_copy save "$LAYERS/${SYSTEM_STACK[0]}" "$GENERATION" "$NODE_DIR/live" "${ASKED[SYSTEM]}"
    fi
  fi
}

copy_pairs() { # SOURCE TARGET PREVIOUS …: RESULT, PAUSE, MESSAGE: runs copying.pyz, its second pass in a standstill
  local word='' stood='' whole=yes since paused=0 go told said words node=$NODE_DIR/run
  local copy=(python3 -I "$DIRECTORY/run/copying.pyz") options=(--drain)
  # As root over the user's own files: they may have locked some against themselves.
  [[ -n $BERTH_ROOT ]] || ! unshare --map-root-user true 2>/dev/null || copy=(unshare --map-root-user "${copy[@]}")
  if [[ $# -eq 0 ]]; then # nothing was ever written
    RESULT=frozen MESSAGE=''
    exit 0
  fi
  type -P python3 >/dev/null || { MESSAGE="$SLURMD_NODENAME has no python3, which copies a running session" && exit 0; }
  # Others than the user own files there; in the session's namespace they are the user's to read.
  [[ -z $BERTH_ROOT ]] || copy=(nsenter --target "$CONTAINER" --user "${copy[@]}") options+=(--squash)
  rm -f "$NODE_DIR"/{copy,go,still}
  mkfifo "$NODE_DIR"/{copy,go,still}
  exec {go}<>"$NODE_DIR/copy" {told}<>"$NODE_DIR/go" {said}<>"$NODE_DIR/still" # before the session may replace them
  mv -ft "$node" "$NODE_DIR/go" "$NODE_DIR/still" || { MESSAGE="the session is in the way of its copy" && exit 0; }
  exec {words}< <(exec "${copy[@]}" "${options[@]}" "$@" <"$NODE_DIR/copy" 2>"$NODE_DIR/copy.err" {go}>&- {told}>&- {said}>&-)
  COPIER=$!
  IFS= read -ru "$words" word || :
  while [[ $word == ready || $word == copied ]]; do # a moment before the first pass, and all of the second
    since=$(date +%s%3N) stood=''
    leave_word stand '' || :
    kill -USR1 "$CONTAINER"
    read -rn "$WORD_LIMIT" -t $((STILL_WAIT + 3)) -u "$said" stood || :
    [[ $stood == all ]] || whole=''
    echo "${stood:-some}" >&"$go"
    IFS= read -rt "$STILL_LIMIT" -u "$words" word || word="not done within $STILL_LIMIT s"
    echo >&"$told"
    paused=$((paused + $(date +%s%3N) - since))
    read -rn "$WORD_LIMIT" -t "$STILL_WAIT" -u "$said" _ || :
    [[ $word != drained && $word != still ]] || IFS= read -ru "$words" word || :
  done
  printf -v PAUSE '%d.%03d' $((paused / 1000)) $((paused % 1000))
  rm -f "$node/go" "$node/still" "$node/stand" || :
  if [[ $word == 'done' ]]; then
    COPIER=''
    for (( ; $# > 0; )); do # whose marks of deletion these are
      [[ ! -e ${1%/tree}/fuse ]] || touch "$2/fuse" 2>"$NODE_DIR/copy.err" || { MESSAGE=$(<"$NODE_DIR/copy.err") && exit 0; }
      shift 3
    done
    RESULT=crash-consistent MESSAGE='not every process could be stopped'
    if [[ -n $whole ]]; then RESULT=frozen MESSAGE=''; fi
  else
    MESSAGE=$(tail -n 1 "$NODE_DIR/copy.err")
    MESSAGE=${MESSAGE:-the copy was ${word:-not done}}
  fi
}

# ---- a system whose top is on the node's disk: docs/adr/0120 ---------------------------------------------------------

find_python() { # PYTHON: one that is new enough for broker/volumes/saves.py
  for PYTHON in python3 python3.{20..11}; do
    ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 0
  done
  return 1
}

saves() { # COMMAND ARGUMENT…: as root over the user's own files, which may be locked against themselves
  local as=()
  ! unshare --map-root-user true 2>/dev/null || as=(unshare --map-root-user)
  "${as[@]}" "$PYTHON" -I "$DIRECTORY/run/copying.pyz" "$@"
}

end_programs() { # of a copy; returns when they have ended: one that saves may have to finish that
  kill ${COPIER:+"$COPIER"} ${PACKER:+"$PACKER"} 2>/dev/null || :
  while [[ -n $PACKER ]] && kill -0 "$PACKER" 2>/dev/null; do wait "$PACKER" 2>/dev/null || :; done
  PACKER=''
  [[ $RESULT != failed || -z ${ON_NODE:-} ]] || remove_tree "$NODE_DIR/live.new"
}

take_system() { # GENERATION; SYSTEM_STACK gets what earlier jobs have saved of the top. From now on only this job saves it
  local top=$LAYERS/${SYSTEM_STACK[0]} start=$BERTH_SUBMISSION.${SLURM_RESTART_COUNT:-0} said code=0 below own like
  { find_python && type -P mksquashfs unsquashfs >/dev/null; } || die "$UNFIT_NODE" \
    "$SLURMD_NODENAME lacks Python 3.11 or squashfs-tools, which save this session's system: start it on another node"
  said=$(saves claim "$top" "$start" 2>"$NODE_DIR/save.err") || code=$?
  ((code != 3)) || die "$SUPERSEDED" "$(tail -n 1 "$NODE_DIR/save.err")"
  ((code == 0)) || die "$BAD_VOLUMES" "$(tail -n 1 "$NODE_DIR/save.err")"
  { read -ra below && read -r own; } <<<"$said" || :
  mkdir -p "$NODE_DIR/top/work"
  if [[ -n $own && -n $BERTH_ROOT ]]; then # which changes nothing of that
    below=("$own" "${below[@]}") own=''
  fi
  if [[ -z $own ]]; then
    mkdir "$NODE_DIR/top/tree"
  else
    saves unpack "$LAYERS/$own" "$NODE_DIR/top/tree" || die "$BAD_VOLUMES" "the layer $LAYERS/$own could not be unpacked"
    [[ ! -e $LAYERS/$own/fuse ]] || : >"$NODE_DIR/top/fuse"
  fi
  SYSTEM_STACK=("${SYSTEM_STACK[0]}" "${below[@]}" "${SYSTEM_STACK[@]:1}")
  like=${own:-${below[0]:-${SYSTEM_STACK[0]}}}
  dress_root "$LAYERS/$like/tree" "$NODE_DIR/top/tree"
  [[ -z $own ]] || : >"$NODE_DIR/saved"
  ROOT_MODE=$(stat -c %a "$NODE_DIR/top/tree") SAVE_AT=$((EPOCHSECONDS + BERTH_SAVE_EVERY))
  GENERATION=$start
}

system_changed() { # since the job began or, if it has saved, since then; what is not known counts as a change
  local as=() since=(-mindepth 1) found
  ! unshare --map-root-user true 2>/dev/null || as=(unshare --map-root-user)
  if [[ -e $NODE_DIR/saved ]]; then
    (($(stat -c %Y "$NODE_DIR/saved") <= EPOCHSECONDS)) || return 0 # the clock was set back
    since=(-cnewer "$NODE_DIR/saved")
  fi
  found=$("${as[@]}" find "$NODE_DIR/top/tree" "${since[@]}" -print -quit) || return 0
  [[ -n $found || $(stat -c %a "$NODE_DIR/top/tree") != "$ROOT_MODE" ]]
}

begin_save() { # notes the time, a little earlier than it is: the file system's clock has steps
  remove_tree "$NODE_DIR/live.new"
  touch -d '2 seconds ago' "$NODE_DIR/saving"
}

pack_copy() { # COMMAND ARGUMENT…: after a copy to live.new: RESULT stays as it is only if the copy has been saved
  local how=$RESULT as=()
  RESULT=failed MESSAGE='the session ended'
  [[ ! -e $NODE_DIR/top/fuse ]] || : >"$NODE_DIR/live.new/fuse"
  remove_tree "$NODE_DIR/live"
  mv "$NODE_DIR/live.new" "$NODE_DIR/live"
  ! unshare --map-root-user true 2>/dev/null || as=(unshare --map-root-user)
  # A process of its own, so that a signal reaches it, and without the lock that the next save waits for.
  (exec {turn}>&- && exec "${as[@]}" "$PYTHON" -I "$DIRECTORY/run/copying.pyz" "$@" 2>"$NODE_DIR/save.err") &
  PACKER=$!
  if wait "$PACKER"; then
    [[ $1 != save ]] || mv "$NODE_DIR/saving" "$NODE_DIR/saved"
    RESULT=$how MESSAGE=''
  else
    MESSAGE=$(tail -n 1 "$NODE_DIR/save.err")
  fi
  PACKER=''
}

keep_saved() { # when SAVE_AT has come: saves in the background
  [[ -n ${GENERATION:-} && -n ${LISTENS:-} && -z $BERTH_ROOT && -z ${STOPPING:-} ]] && ((EPOCHSECONDS >= SAVE_AT)) || return 0
  SAVE_AT=$((EPOCHSECONDS + BERTH_SAVE_EVERY))
  save_live &
}

save_live() { # a copy on the node's disk while the session stands still, then packed
  local turn RESULT='' PAUSE=0.000 MESSAGE='' COPIER='' PACKER=''
  trap - USR1 USR2
  exec {turn}>"$NODE_DIR/copying" && flock "$turn"
  system_changed || exit 0
  RESULT=failed
  trap end_save EXIT
  trap 'RESULT="" && exit 0' TERM # the job saves at its end
  begin_save
  copy_pairs "$NODE_DIR/top/tree" "$NODE_DIR/live.new" "$NODE_DIR/live"
  [[ $RESULT == failed ]] || pack_copy save "$LAYERS/${SYSTEM_STACK[0]}" "$GENERATION" "$NODE_DIR/live"
}

end_save() { # says how it went
  local text at='never before'
  end_programs
  [[ -n $RESULT ]] || return 0
  [[ $RESULT == failed ]] || { say "the system is saved, $RESULT, $PAUSE s" && return 0; }
  [[ ! -e $NODE_DIR/saved ]] || printf -v at 'last at %(%H:%M:%S)T' "$(stat -c %Y "$NODE_DIR/saved")"
  text="what is outside of the home could not be saved ($at): ${MESSAGE:0:300}"
  say "warning: $text"
  leave_word notice $'\r\n'"berth: $BERTH_SESSION_NAME: $text"$'\r\n' || :
  kill -USR1 "$CONTAINER" 2>/dev/null || :
}

save_at_end() { # nothing of the session runs any more
  local turn attempt
  [[ -n ${GENERATION:-} && -z $BERTH_ROOT ]] || return 0
  exec {turn}>"$NODE_DIR/copying" && flock "$turn" # of a save in the background, which has been told to end
  # Stores into mapped pages of tmpfs change no time.
  system_changed || [[ -e $NODE_DIR/saved && $(stat -f -c %T "$NODE_DIR/top") == tmpfs ]] || return 0
  say "saving what has changed outside of the home"
  for attempt in first second; do # Slurm's signal may end the first
    if saves save "$LAYERS/${SYSTEM_STACK[0]}" "$GENERATION" "$NODE_DIR/top" 2>"$NODE_DIR/save.err"; then
      say "saved"
      return 0
    fi
    say "the $attempt attempt failed: $(tail -n 1 "$NODE_DIR/save.err")"
  done
  say "error: what has changed outside of the home since the last save is lost"
}

finish() { # on every way out
  local code=$? job pause end=$((SECONDS + STOP_GRACE + 2))
  trap '' TERM USR1 USR2
  for job in $(jobs -p); do kill "$job" 2>/dev/null || :; done
  if [[ -n ${CONTAINER:-} ]] && kill -TERM "$CONTAINER" 2>/dev/null; then
    # Not by a shell in the background: as this one, it would ignore TERM by now, and outlive the job's script. And a
    # shell that is forked while signals come may run a trap that it no longer has ("run_pending_traps: bad value").
    exec {pause}<> <(:)
    while kill -0 "$CONTAINER" 2>/dev/null && ((SECONDS <= end)); do read -rt 0.05 -u "$pause" || :; done
    kill -KILL "$CONTAINER" 2>/dev/null || :
    wait "$CONTAINER" || :
  fi
  save_at_end
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
  [[ $# -eq 2 && $1 =~ ^/[^,:]*$ && -n ${SLURM_JOB_ID:-} && -n ${SLURMD_NODENAME:-} ]] ||
    die "$USAGE" "usage: sbatch … session.sh SESSION_DIRECTORY SUBMISSION"
  readonly DIRECTORY=$1 LAYERS=${1%/*/*}/layers OWNER_UID=$UID OWNER_GID=${GROUPS[0]}
  trap finish EXIT
  trap stop TERM
  trap 'LOOK_AT=0' USR1 # Slurm says that the time limit is near: it may be nearer than we thought
  trap 'copy_live &' USR2
  # --export=NIL leaves Slurm's own variables only; what a site's prolog adds must not add mounts.
  unset "${!BERTH_@}" "${!APPTAINER_@}" "${!SINGULARITY_@}"
  export PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  umask 077
  cd /
  say "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, on $SLURMD_NODENAME"

  load_job_env
  [[ $BERTH_SUBMISSION == "$2" ]] || die "$SUPERSEDED" "this is submission $2, and the session is at $BERTH_SUBMISSION"
  check_files
  check_node
  take_lock
  read_volumes
  make_node_dir
  [[ -z $ON_NODE ]] || take_system
  trim_log
  export BERTH_SESSION_ID BERTH_SESSION_NAME BERTH_OWNER BERTH_PROFILE BERTH_PROFILE_VERSION BERTH_BEFORE
  export APPTAINER_CONFIGDIR=$NODE_DIR/apptainer
  start_container
  read_host_key
  find_oom_counter /sys/fs/cgroup </proc/self/cgroup
  ENDS_AT=${SLURM_JOB_END_TIME:-$NEVER} LOOK_AT=0 WARNED_OF=''
  [[ $ENDS_AT =~ ^[0-9]+$ ]] || ENDS_AT=$NEVER
  LOOK_AT=$((ENDS_AT - WARN_EARLY[0]))
  WATCH_AT=0 TOLD_USE='' TOLD_STOP=$(tail -n +2 "$DIRECTORY/run/idle" 2>/dev/null) || : # of an earlier job
  follow_container
  until wait "$CONTAINER" || code=$?; ((code <= 128)) || ! kill -0 "$CONTAINER" 2>/dev/null; do code=0; done
  CONTAINER=''
  [[ -e $NODE_DIR/held ]] || refuse_namespace
  check_memory
  [[ -z ${STOPPING:-} ]] || code=0
  exit "$code"
}

# The unit tests take the functions without running them.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
