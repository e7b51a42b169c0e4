#!/bin/bash
# Runs the script of a batch job, and the steps that it starts with srun, in an environment that `berth sbatch --env` made.
# It lies in that environment's run directory, on the shared file system, beside session.sh, whose functions it uses.
#
#   batch.sh run NAMES CARRIER ARGUMENT…
#                                      what the carrier becomes: the job's batch script, on its first node
#   batch.sh hold … / batch.sh step …  called by itself: in a namespace of its own; a task of srun's
#   batch.sh slurm COMMAND ARGUMENT…   a command of Slurm's, called from inside of the environment
#
# docs/reference/batch-job.md has what the script sees, the files and the exit codes in full: those of the script itself,
# and session.sh's for what keeps it from running.

set -euo pipefail
# shellcheck source=broker/session.sh
source "${BASH_SOURCE[0]%/*}/session.sh"

readonly MARK='#### berth: the script itself follows; the node cuts it off here'
readonly COMMANDS=(sacct sacctmgr sbatch scancel scontrol sinfo sprio squeue srun sstat)
readonly PASSED_ON=(HUP INT QUIT USR1 USR2 TERM CONT ALRM WINCH) # signals, to the script
readonly LOCK_WAIT=300 # seconds that a job that was requeued waits for its former run to end
readonly OPEN_WAIT=1200 # tenths of a second that a task waits for the environment on its node to open

say() { printf 'berth: %s\n' "$*" >&2 || :; }

# What says something of the login node, and would mislead a program in the image.
forget_login_node() {
  local name
  unset LD_LIBRARY_PATH LD_PRELOAD LIBRARY_PATH CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH PKG_CONFIG_PATH MANPATH INFOPATH \
    PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV PERL5LIB R_LIBS TMPDIR TMP TEMP BASH_ENV ENV DISPLAY XAUTHORITY \
    PROMPT_COMMAND LS_COLORS MAIL
  for name in "${!XDG_@}" "${!SSH_@}" "${!DBUS_@}" "${!CONDA_@}" "${!LMOD_@}" "${!MODULE@}" "${!LOADEDMODULES@}" \
    "${!_LMFILES_@}" "${!_ModuleTable@}" "${!BASH_FUNC_@}" "${!BERTH_@}" "${!APPTAINER@}" "${!SINGULARITY@}"; do
    unset "$name"
  done
}

take_explicit() { # NAMES: EXPLICIT: shell lines that set the variables that the submission names, with their values of now
  local name names
  IFS=, read -ra names <<<"$1"
  EXPLICIT=''
  for name in "${names[@]}"; do
    case $name in PWD | OLDPWD | SHLVL | _ | UID | EUID | PPID | SHELLOPTS | BASHOPTS) continue ;; esac # bash's own
    [[ ! -v $name ]] || EXPLICIT+="export $name=${!name@Q}"$'\n'
  done
}

take_umask() { # MASK: the job's, for its script; what we make ourselves must be ours to use, whatever that is
  MASK=$(umask)
  umask 077
}

load() { # sets what session.sh's functions need
  LAYERS=${DIRECTORY%/*/*}/layers OWNER_UID=$UID OWNER_GID=${GROUPS[0]}
  [[ -n ${SLURM_JOB_ID:-} && -n ${SLURMD_NODENAME:-} ]] || die "$USAGE" "this is for jobs of Slurm"
  load_job_env
  check_files
  check_node
  exec {IN_USE}>>"$DIRECTORY/run/lock"
  flock -sn "$IN_USE" || die "$LOCKED" "this environment is being removed"
  read_volumes
}

make_room() { # NODE_DIR, which has our process id in its name; removes what killed jobs of this user's left on the node
  local base=${SLURM_TMPDIR:-/tmp} me=$BASHPID old pid
  for old in "$base/berth-batch-$UID".*; do
    pid=${old#"$base/berth-batch-$UID."} pid=${pid%%.*}
    if [[ -d $old && -O $old && ! -L $old ]] && ! kill -0 "$pid" 2>/dev/null; then remove_tree "$old"; fi
  done
  NODE_DIR=$(mktemp -d "$base/berth-batch-$UID.$me.XXXXXXXX") || die "$NO_NODE_DIR" "no directory in $base"
  mkdir -m 700 "$NODE_DIR/run"
  if [[ -n ${SCRIPT:-} ]]; then
    sed "0,/^$MARK\$/d" "$SCRIPT" >"$NODE_DIR/run/script"
    chmod 700 "$NODE_DIR/run/script"
  fi
}

find_inside() { # WORK: the directory outside; INSIDE: the same one, if the site shows it there, else its place in the home
  local bind source rest target login_home
  login_home=$(getent passwd "$UID" | cut -d: -f6)
  while IFS= read -rd , bind; do
    [[ -n $bind ]] || continue
    source=${bind%%:*} rest=${bind#*:} target=${rest%%:*}
    if [[ $1/ == "$source"/* ]]; then
      INSIDE=$target${1#"$source"}
      return
    fi
  done <<<"$BERTH_BINDS,"
  INSIDE=/home/$BERTH_OWNER
  [[ $1/ != "${login_home%/}"/* ]] || INSIDE+=${1#"${login_home%/}"}
}

note_job() { # KEY WORK SECONDS: the job's file, which this process keeps locked; TOP: the layer that the job writes to
  local file=$DIRECTORY/run/jobs/$1 lock
  [[ -d $DIRECTORY/run/jobs ]] || mkdir -p "$DIRECTORY/run/jobs"
  exec {lock}>>"$file"
  flock -w "$3" "$lock" || return 1
  TOP=$(sed -n 's/^TOP=//p' "$file") # of a job that was requeued, which goes on with what it had
  if [[ -z $TOP ]]; then
    TOP=$(head -c 2048 /dev/urandom | LC_ALL=C tr -dc 0-9a-hjkmnp-tv-z)
    TOP=0${TOP:0:25} # as broker/identifiers.py
  fi
  printf '%s\n' "TOP=$TOP" "NODE=$SLURMD_NODENAME" "WORK=$2" "INSIDE=$INSIDE" >"$file"
}

open_environment() { # NOTE COMMAND ARGUMENT…: CONTAINER: runs the command in there, with our own standard streams
  NOTE=$DIRECTORY/run/nodes/$1 # where the tasks of steps on the same node look for it
  shift
  make_room
  declare -p LAYERS NODE_DIR DRIVER HOME_STACK SYSTEM_STACK OWNER_UID OWNER_GID TOP INSIDE HOST_PATH MASK EXPLICIT \
    "${!BERTH_@}" >"$NODE_DIR/state"
  mkdir -p "${NOTE%/*}"
  # A command in the background would have these signals ignored.
  env --default-signal=INT,QUIT unshare --user --map-root-user --mount \
    /bin/bash "$DIRECTORY/run/batch.sh" hold "$NODE_DIR/state" "$@" <&0 &
  CONTAINER=$!
  printf '%s\n' "$NODE_DIR" >"$NOTE"
}

run_script() { # CARRIER ARGUMENT…
  local carrier=$1 key=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} work=$PWD signal code=0
  key=${key:-$SLURM_JOB_ID}
  shift
  trap finish_run EXIT
  take_umask
  forget_login_node
  load
  find_inside "$work"
  note_job "$key" "$work" "$LOCK_WAIT" || die "$LOCKED" "job $key runs somewhere else still"
  SCRIPT=$carrier
  open_environment "$SLURM_JOB_ID.$SLURMD_NODENAME" /run/berth/node/script "$@"
  # The job's end is the script's, and what Slurm tells the batch shell is for the script.
  for signal in "${PASSED_ON[@]}"; do
    # shellcheck disable=SC2064 # which signal it is, is known now
    trap "kill -$signal $CONTAINER 2>/dev/null || :" "$signal"
  done
  until wait "$CONTAINER" || code=$?; ((code <= 128)) || ! kill -0 "$CONTAINER" 2>/dev/null; do code=0; done
  CONTAINER=''
  touch "$DIRECTORY/run/jobs/$key"
  exit "$code"
}

finish_run() { # on every way out
  local code=$?
  trap '' TERM USR1 USR2 HUP INT
  if [[ -n ${CONTAINER:-} ]]; then kill -TERM "$CONTAINER" 2>/dev/null && wait "$CONTAINER"; fi || :
  [[ -z ${NOTE:-} ]] || rm -f "$NOTE"
  [[ -z ${NODE_DIR:-} ]] || remove_tree "$NODE_DIR"
  exit "$code"
}

# ---- inside the container ------------------------------------------------------------------------------------------

enter_environment() { # leaves nothing of Apptainer's in the command's environment
  unset "${!APPTAINER@}" "${!SINGULARITY@}" USER_PATH PROMPT_COMMAND PS1 ENVIRONMENT
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH//\/.singularity.d\/libs/}
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
  [[ -n $LD_LIBRARY_PATH ]] || unset LD_LIBRARY_PATH # an empty entry would mean the current folder
  echo $$ >/run/berth/node/pid.new && mv /run/berth/node/pid.new /run/berth/node/pid
}

# ---- root of a user namespace, with mounts of its own ---------------------------------------------------------------

mount_layers() { # TARGET LOWER…: an overlay that nobody can write to
  local target=$1 layer how=kernel IFS=:
  shift
  for layer in "$@"; do [[ ! -e ${layer%/tree}/fuse ]] || how=fuse; done
  if [[ $how == fuse ]] ||
    ! LIBMOUNT_FORCE_MOUNT2=always mount -t overlay -o "ro,userxattr,lowerdir=$*" berth "$target" 2>/dev/null; then
    fuse-overlayfs -o "ro,lowerdir=$*" "$target" || die "$BAD_VOLUMES" "neither the kernel nor fuse-overlayfs mounts $target"
  fi
  MOUNTED=("$target" "${MOUNTED[@]}")
}

mount_system() { # as session.sh's, but that nobody writes to it
  local stack=("${SYSTEM_STACK[@]/%//tree}" "$NODE_DIR/skeleton" "$NODE_DIR/image")
  mount_layers "$NODE_DIR/root" "${stack[@]}"
  missing_points system "$NODE_DIR/root" # the user may have deleted some
  [[ ${#FOLDERS[@]} -gt 0 || ${#FILES[@]} -gt 0 ]] || return 0
  make_points "$NODE_DIR/points" || refuse "$NODE_DIR/root" "there is no place for ${FOLDERS[*]} ${FILES[*]}"
  umount "$NODE_DIR/root"
  mount_layers "$NODE_DIR/root" "$NODE_DIR/points" "${stack[@]}"
}

make_top() { # the layer that the job writes to, unless it is there: with `overlay` over the home's layers, else a copy of it
  local base=$LAYERS/${HOME_STACK[0]}/tree
  [[ ! -d $LAYERS/$TOP/tree ]] || return 0
  mkdir -p "$LAYERS/$TOP"
  if [[ $DRIVER == overlay ]]; then
    mkdir -m "$(stat -c %a "$base")" "$LAYERS/$TOP/tree"
  else
    cp -a --reflink=auto -T "$base" "$LAYERS/$TOP/copying"
    mv "$LAYERS/$TOP/copying" "$LAYERS/$TOP/tree"
  fi
}

write_commands() { # DIRECTORY: Slurm's commands as the script finds them: they run outside, where Slurm is
  local name
  for name in "${COMMANDS[@]}"; do
    [[ ! -e $NODE_DIR/image$FOUND/$name && ! -L $NODE_DIR/image$FOUND/$name ]] || continue
    cat >"$1/$name" <<COMMAND
#!/bin/bash
# Slurm's $name of the node, for a batch job in an environment of Berth's.
inside=("\$PWD" "\$PATH" "\${LD_LIBRARY_PATH-}" "\${LD_PRELOAD-}")
unset LD_LIBRARY_PATH LD_PRELOAD BASH_ENV
exec unshare --user --map-current-user --root=/run/berth/host --wd=/ \\
  /bin/bash ${DIRECTORY@Q}/run/batch.sh slurm $name ${HOST_PATH@Q} "\${inside[@]}" "\$@"
COMMAND
    chmod 755 "$1/$name"
  done
}

mount_environment() { # HOME_DIR
  mkdir -p "$NODE_DIR"/{image,skeleton,points,root,home,empty,view/{0,1}}
  cd "$LAYERS"
  mount_image
  mount_points
  POINTS+=("d /run/berth/host")
  make_skeleton
  if inside "$NODE_DIR/image" /usr/local/bin && [[ -d $NODE_DIR/skeleton$FOUND ]]; then
    write_commands "$NODE_DIR/skeleton$FOUND"
  fi
  mount_system
  check_accounts
  make_top
  HOME_STACK[0]=$TOP
  mount_home
  mend_points home "$HOME_DIR"
  [[ $INSIDE == "/home/$BERTH_OWNER"/* ]] || return 0
  inside "$HOME_DIR" "${INSIDE#"/home/$BERTH_OWNER"}"
  [[ ! -d $HOME_DIR$FOUND ]] || return 0
  view "$HOME_DIR"
  mkdir -p -- "$VIEW$FOUND" || refuse "$HOME_DIR" "there is no place for $INSIDE"
}

hold_environment() { # STATE COMMAND ARGUMENT…
  local code=0 signal binds=() as
  local -A VIEWS=()
  # shellcheck disable=SC1090 # open_environment has written it
  source "$1"
  shift
  as=(unshare --user --map-user="$OWNER_UID" --map-group="$OWNER_GID")
  CHILD='' MOUNTED=()
  say() { :; } # what session.sh tells of its mounts is for a log
  die() {
    printf 'berth: error: %s\n' "$2" >&2 || :
    exit "$1"
  }
  trap '[[ ${#MOUNTED[@]} -eq 0 ]] || umount -l "${MOUNTED[@]}"' EXIT
  umask 022
  trap '' "${PASSED_ON[@]}" # in what FUSE runs, too: a signal for all of the job's processes must not unmount the image
  mount_environment
  for signal in "${PASSED_ON[@]}"; do
    # shellcheck disable=SC2064 # which signal it is, is known now
    trap "pass $signal" "$signal"
  done
  [[ ! -d /dev/dri ]] || binds+=(--bind /dev/dri)
  [[ -z $BERTH_BINDS ]] || binds+=(--bind "$BERTH_BINDS")
  export BERTH_SESSION_NAME BERTH_PROFILE BERTH_PROFILE_VERSION
  export APPTAINER_CONFIGDIR=$NODE_DIR/apptainer
  {
    declare -f enter_environment
    echo enter_environment
    echo "umask $MASK" # Apptainer sets one of its own
    printf %s "$EXPLICIT" # what the image sets, Apptainer has set by now
    echo 'exec "$@"'
  } >"$NODE_DIR/run/enter"
  # No PID namespace: Slurm ends a job's processes, and those of its steps join these.
  env --default-signal=INT,QUIT "${as[@]}" "$BERTH_APPTAINER" -q exec --contain --no-init --no-umask --no-eval --workdir "$NODE_DIR" \
    --home "$HOME_DIR:/home/$BERTH_OWNER" --cwd "$INSIDE" --bind "$DIRECTORY/run:/run/berth/session:ro" \
    --bind "$DIRECTORY:/run/berth/record:ro" --bind "$NODE_DIR/run:/run/berth/node" --bind /:/run/berth/host \
    "${binds[@]}" "$NODE_DIR/root" /bin/bash /run/berth/node/enter "$@" <&0 &
  CHILD=$!
  while :; do
    code=0
    wait "$CHILD" || code=$?
    if ((code <= 128)) || ! kill -0 "$CHILD" 2>/dev/null; then exit "$code"; fi # else a signal ended wait
  done
}

# ---- Slurm's commands, and what srun starts -------------------------------------------------------------------------

run_command() { # COMMAND HOST_PATH DIRECTORY PATH LIBRARIES PRELOAD ARGUMENT…: outside, for the script inside
  local command=$1
  export PATH=$2
  [[ $command == srun ]] || exec "$command" "${@:7}"
  # In words, since srun may be told to hand on no variable.
  BEGINS=(/bin/bash "$DIRECTORY/run/batch.sh" step "${@:2:5}")
  wrap_programs "${@:7}"
  exec srun "${WORDS[@]}"
}

wrap_programs() { # SRUN'S WORDS: WORDS: the same, but that each component's program comes after BEGINS
  local line word options=() letters=''
  while IFS= read -r line; do
    [[ $line =~ ^\ \ (-([A-Za-z]),\ |\ \ \ \ )--([a-z-]+)(\[?=)? ]] || continue
    options+=("${BASH_REMATCH[3]}${BASH_REMATCH[4]}")
    [[ ${BASH_REMATCH[4]} != '=' ]] || letters+=${BASH_REMATCH[2]}
  done < <(srun --help)
  WORDS=()
  while (($#)); do
    word=$1
    shift
    if [[ $word == -?* && $word != -- ]]; then
      WORDS+=("$word")
      if takes_next_word "$word" && (($#)); then WORDS+=("$1") && shift; fi
    elif [[ $word == : || $word == -- ]]; then
      WORDS+=("$word")
    else # the program, up to the next component's options
      WORDS+=("${BEGINS[@]}" "$word")
      while (($#)) && [[ $1 != : ]]; do WORDS+=("$1") && shift; done
    fi
  done
}

takes_next_word() { # WORD: whether the option's value is the word after it; with `options` and `letters` of wrap_programs
  local each bunch=${1#-} found=''
  if [[ $1 == --* ]]; then
    [[ $1 != *=* ]] || return 1
    for each in "${options[@]}"; do
      [[ $each != "${1#--}"* ]] || found=$each
      [[ ${each%%[[=]*} != "${1#--}" ]] || break
    done
    [[ $found == *[a-z]= ]]
    return
  fi
  while [[ -n $bunch && $letters != *"${bunch:0:1}"* ]]; do bunch=${bunch:1}; done
  [[ ${#bunch} -eq 1 ]]
}

step() { # HOST_PATH DIRECTORY PATH LIBRARIES PRELOAD PROGRAM ARGUMENT…: a task: joins the environment on its node
  local note=$DIRECTORY/run/nodes/$SLURM_JOB_ID.$SLURMD_NODENAME tries
  HOST_PATH=$1 INSIDE=$2
  export PATH=$HOST_PATH
  if [[ ! -e $note ]]; then
    note+=.$SLURM_STEP_ID
    (open_for_step "$note") </dev/null >/dev/null &
  fi
  for ((tries = 0; tries < OPEN_WAIT; tries++)); do
    if [[ -s $note ]] && NODE_DIR=$(<"$note") && [[ -s $NODE_DIR/run/pid ]]; then break; fi
    sleep 0.1
  done
  [[ -s ${NODE_DIR:-}/run/pid ]] || die "$UNFIT_NODE" "the environment could not be opened on $SLURMD_NODENAME"
  # shellcheck disable=SC2016 # for the shell inside
  exec nsenter --target "$(<"$NODE_DIR/run/pid")" --user --mount --preserve-credentials -- /bin/bash -c '
    cd -- "$1" || exit
    export PATH=$2 LD_LIBRARY_PATH=$3 LD_PRELOAD=$4
    [[ -n $3 ]] || unset LD_LIBRARY_PATH
    [[ -n $4 ]] || unset LD_PRELOAD
    exec "${@:5}"' berth "${@:2}"
}

open_for_step() { # NOTE: on a node where the job's script is not; the first of the step's tasks there does it for all
  local key=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  key=${key:-$SLURM_JOB_ID}@$SLURMD_NODENAME.$SLURM_STEP_ID
  trap finish_run EXIT
  take_umask
  EXPLICIT='' # a step has the variables that srun gives it
  unset "${!BERTH_@}"
  load
  note_job "$key" '' 0 || exit 0
  open_environment "${1##*/}" sleep infinity
  wait "$CONTAINER" # Slurm ends it with the step
}

DIRECTORY=${BASH_SOURCE[0]%/run/*}
case ${1-} in
  run)
    take_explicit "$2"
    HOST_PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    export PATH=$HOST_PATH
    run_script "${@:3}"
    ;;
  hold) hold_environment "${@:2}" ;;
  slurm) run_command "${@:2}" ;;
  step) step "${@:2}" ;;
  *) die "$USAGE" "usage: batch.sh run|hold|slurm|step …" ;;
esac
