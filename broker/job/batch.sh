#!/bin/bash
# Runs the script of a batch job, and the steps that it starts with srun, in an environment that `berth sbatch --env` made.
# It lies in that environment's run directory, on the shared file system, beside session.sh, whose functions it uses.
#
#   batch.sh run NAMES CARRIER ARGUMENT…
#                                      what the carrier becomes: the job's batch script, on its first node
#   batch.sh hold … / batch.sh step …  called by itself: in a namespace of its own; a task of srun's
#   batch.sh slurm NODE_DIR COMMAND …  a command of Slurm's, called from inside of the environment
#   batch.sh program FILE PROGRAM …    a program of srun --multi-prog; the file has what `step` gets in words
#
# docs/reference/batch-job.md has what the script sees, the files and the exit codes in full: those of the script itself,
# and session.sh's for what keeps it from running.

set -euo pipefail
# shellcheck source=broker/job/session.sh
source "${BASH_SOURCE[0]%/*}/session.sh"

readonly MARK='#### berth: the script itself follows; the node cuts it off here'
readonly COMMANDS=(sacct sacctmgr salloc sattach sbatch sbcast scancel scontrol sinfo sprio squeue sreport srun sstat strigger)
OTHER_HOMES=()
readonly SCRIPT_INSIDE=/run/berth/node/script # where $0 cannot be what it is outside
readonly PASSED_ON=(HUP INT QUIT USR1 USR2 TERM CONT ALRM WINCH) # signals, to the script
readonly LOCK_WAIT=300 # seconds that a job that was requeued waits for its former run to end
readonly OPEN_WAIT=1200 # tenths of a second that a task waits for the environment on its node to open

say() { printf 'berth: %s\n' "$*" >&2 || :; }

# What says something of the login node, and would mislead a program in the image. DROPPED: shell lines that give it back
# to jobs that are submitted from inside.
forget_login_node() {
  local name
  local -A before=()
  while IFS= read -r name; do before[$name]=${!name}; done < <(compgen -e)
  unset LD_LIBRARY_PATH LD_PRELOAD LIBRARY_PATH CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH PKG_CONFIG_PATH MANPATH INFOPATH \
    PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV PERL5LIB R_LIBS TMPDIR TMP TEMP BASH_ENV ENV DISPLAY XAUTHORITY \
    PROMPT_COMMAND LS_COLORS MAIL
  for name in "${!XDG_@}" "${!SSH_@}" "${!DBUS_@}" "${!CONDA_@}" "${!LMOD_@}" "${!MODULE@}" "${!LOADEDMODULES@}" \
    "${!_LMFILES_@}" "${!_ModuleTable@}" "${!BASH_FUNC_@}" "${!BERTH_@}" "${!APPTAINER@}" "${!SINGULARITY@}"; do
    unset "$name"
  done
  DROPPED=''
  for name in "${!before[@]}"; do
    [[ -v $name || $name =~ ^(BERTH_|APPTAINER|SINGULARITY) || ! $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
      DROPPED+="[[ -v $name ]] || export $name=${before[$name]@Q}"$'\n'
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
  BERTH_SUBMISSION_DIRECTORY=''
  load_job_env
  check_files
  check_node
  exec {IN_USE}<>"$DIRECTORY/run/lock" # a shared lock on NFS takes a descriptor for reading: flock(2)
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
  if [[ -n ${CARRIER:-} ]]; then
    sed "0,/^$MARK\$/d" "$CARRIER" >"$NODE_DIR/run/script"
    chmod 700 "$NODE_DIR/run/script"
  fi
}

is_systems_own() { # DIRECTORY: the root, or what belongs to the system on the node as in the image
  [[ $1/ =~ ^/(/|(usr|etc|bin|sbin|lib[^/]*|proc|sys|dev|run|var|tmp)/) ]]
}

holds_home() { # DIRECTORY: whether it is the home, or a home lies below it
  local home
  for home in "${HOMES[@]}" "/home/$BERTH_OWNER"; do [[ $home/ != "${1%/}"/* ]] || return 0; done
  return 1
}

may_show() { # DIRECTORY: whether the node's directory may be mounted over the environment's
  [[ $1 == /* && $1 != *[[:cntrl:]]* ]] && ! is_systems_own "$1" && ! holds_home "$1"
}

find_homes() { # HOMES: the login's home, as accounts have it and without links
  LOGIN_HOME=$(getent passwd "$UID" | cut -d: -f6)
  HOMES=("${LOGIN_HOME%/}" "$(realpath -m -- "$LOGIN_HOME")")
}

find_shown() { # DIRECTORY…: SHOWN: those of them that are shown inside, each at the place that it has on the node
  local each
  SHOWN=()
  [[ -n $BERTH_SUBMISSION_DIRECTORY ]] || return 0
  for each in "$@"; do
    if [[ -d $each ]] && may_show "$each" && ! is_shown "$each"; then SHOWN+=("$each"); fi
  done
}

is_shown() { # DIRECTORY: whether it is, or lies in, one that is shown
  local each
  for each in "${SHOWN[@]}"; do [[ $1/ != "$each"/* ]] || return 0; done
  return 1
}

find_inside() { # WORK: the directory outside; INSIDE: the same one, if it is shown there, else its place in the home
  local bind source rest target home
  INSIDE=$1
  ! is_shown "$1" || return 0
  while IFS= read -rd , bind; do
    [[ -n $bind ]] || continue
    source=${bind%%:*} rest=${bind#*:} target=${rest%%:*}
    if [[ $1/ == "$source"/* ]]; then
      INSIDE=$target${1#"$source"}
      return
    fi
  done <<<"$BERTH_BINDS,"
  ! is_systems_own "$1" || return 0
  INSIDE=/home/$BERTH_OWNER
  for home in "${HOMES[@]}"; do
    if [[ $1/ == "$home"/* ]]; then
      INSIDE+=${1#"$home"}
      return
    fi
  done
}

note_job() { # KEY WORK SECONDS: the job's file, which this process keeps locked; TOP: the layer that the job writes to
  local lock
  NOTED=$DIRECTORY/run/jobs/$1 NOTED_WORK=$2
  [[ -d $DIRECTORY/run/jobs ]] || mkdir -p "$DIRECTORY/run/jobs"
  exec {lock}<>"$NOTED"
  flock -w "$3" "$lock" || return 1
  TOP=$(sed -n 's/^TOP=//p' "$NOTED") # a requeued job continues with the layer of its former run
  if [[ -z $TOP ]]; then
    TOP=$(head -c 2048 /dev/urandom | LC_ALL=C tr -dc 0-9a-hjkmnp-tv-z)
    TOP=0${TOP:0:25} # as broker/names.py
  fi
  write_note
}

write_note() {
  printf '%s\n' "TOP=$TOP" "NODE=$SLURMD_NODENAME" "WORK=$NOTED_WORK" "INSIDE=$INSIDE" "SUBMITTED=$SUBMITTED" \
    "${SHOWN[@]/#/SHOWN=}" >"$NOTED"
}

open_environment() { # NOTE COMMAND ARGUMENT…: CONTAINER: runs the command in there, with our own standard streams
  NOTE=$DIRECTORY/run/nodes/$1 # where the tasks of steps on the same node look for it
  shift
  make_room
  declare -p LAYERS NODE_DIR DRIVER HOME_STACK SYSTEM_STACK OWNER_UID OWNER_GID TOP WORK SUBMITTED INSIDE SHOWN LOGIN_HOME HOMES \
    NOTED NOTED_WORK CARRIER HOST_PATH MASK EXPLICIT DROPPED "${!BERTH_@}" >"$NODE_DIR/state"
  mkdir -p "${NOTE%/*}"
  # A command in the background would have these signals ignored.
  env --default-signal=INT,QUIT unshare --user --map-root-user --mount \
    /bin/bash "$DIRECTORY/run/batch.sh" hold "$NODE_DIR/state" "$@" <&0 &
  CONTAINER=$!
  printf '%s\n' "$NODE_DIR" >"$NOTE"
}

run_script() { # CARRIER ARGUMENT…
  local key=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} signal code=0
  key=${key:-$SLURM_JOB_ID} CARRIER=$1
  WORK=$(pwd -P)
  shift
  trap finish_run EXIT
  take_umask
  forget_login_node
  load
  SUBMITTED=${SLURM_SUBMIT_DIR:-$WORK}
  find_homes
  find_shown "$WORK" "$SUBMITTED"
  find_inside "$WORK"
  note_job "$key" "$WORK" "$LOCK_WAIT" || die "$LOCKED" "job $key runs somewhere else still"
  open_environment "$SLURM_JOB_ID.$SLURMD_NODENAME" script "$@"
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
  [[ -z ${CARRIER:-} ]] || rm -f "$DIRECTORY/run/nodes/$SLURM_JOB_ID".{cast,programs.*}
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
  local target=$1 layer how=kernel FROM=. NAMES IFS=: refusal='not asked, as fuse-overlayfs wrote a layer of it'
  shift
  NAMES=$*
  [[ ${#NAMES} -lt $MOUNT_OPTIONS ]] || shorten "$@"
  for layer in "$@"; do [[ ! -e ${layer%/tree}/fuse ]] || how=fuse; done
  if [[ $how == kernel ]] && ! mount_by_kernel "$FROM" "ro,lowerdir=$NAMES" "$target"; then
    how=fuse refusal=$LAST
  fi
  if [[ $how == fuse ]] && ! mount_by_fuse "$FROM" "ro,lowerdir=$NAMES" "$target"; then
    refuse_overlay "$LAYERS/${SYSTEM_STACK[0]}" "$refusal" "$LAST"
  fi
  MOUNTED=("$target" "${MOUNTED[@]}")
}

mount_system() { # as session.sh's, but that nobody writes to it
  local STACK=() stack
  ON_NODE='' open_system # no job writes to the top that the environment names
  stack=("${STACK[@]}" "$NODE_DIR/skeleton" "$NODE_DIR/image")
  mount_layers "$NODE_DIR/root" "${stack[@]}"
  missing_points system "$NODE_DIR/root" # the user may have deleted some
  [[ ${#FOLDERS[@]} -gt 0 || ${#FILES[@]} -gt 0 ]] || return 0
  make_points "$NODE_DIR/points" || refuse "$NODE_DIR/root" "there is no place for ${FOLDERS[*]} ${FILES[*]}"
  umount "$NODE_DIR/root"
  mount_layers "$NODE_DIR/root" "$NODE_DIR/points" "${stack[@]}"
}

make_top() { # the layer that the job writes to, unless it is there: with `overlay` over the home's layers, else a copy of it
  local base=$LAYERS/${HOME_STACK[0]}/tree said
  [[ ! -d $LAYERS/$TOP/tree ]] || return 0
  mkdir -p "$LAYERS/$TOP"
  if [[ $DRIVER == overlay ]]; then
    mkdir -m "$(stat -c %a "$base")" "$LAYERS/$TOP/tree"
  else
    if ! said=$(LC_ALL=C cp -a --reflink=auto -T "$base" "$LAYERS/$TOP/copying" 2>&1 | first_lines); then
      say "$said"
      [[ $said != *'Permission denied'* ]] ||
        die "$BAD_VOLUMES" "files of the home cannot be read, see above: run \`chmod u+r\` on them in the session (\`chmod u+rx\` for directories), and submit again"
      die "$BAD_VOLUMES" "the home cannot be copied, see above"
    fi
    mv "$LAYERS/$TOP/copying" "$LAYERS/$TOP/tree"
  fi
}

first_lines() { # of standard input, which is read to its end: a program may have as many words as a home has files
  head -n 20
  cat >/dev/null
}

write_commands() { # DIRECTORY: Slurm's commands as the script finds them: they run outside, where Slurm is
  local name
  for name in "${COMMANDS[@]}"; do
    [[ ! -e $NODE_DIR/image$FOUND/$name && ! -L $NODE_DIR/image$FOUND/$name ]] || continue
    cat >"$1/$name" <<COMMAND
#!/bin/bash
# Slurm's $name of the node, for a batch job in an environment of Berth's.
cd -P . 2>/dev/null
inside=("\$PWD" "\$PATH" "\${LD_LIBRARY_PATH-}" "\${LD_PRELOAD-}" "\${BASH_ENV-}")
unset LD_LIBRARY_PATH LD_PRELOAD BASH_ENV
exec unshare --user --map-current-user --root=/run/berth/host --wd=/ \\
  /bin/bash ${DIRECTORY@Q}/run/batch.sh slurm ${NODE_DIR@Q} $name ${HOST_PATH@Q} "\${inside[@]}" "\$@"
COMMAND
    chmod 755 "$1/$name"
  done
}

side_of() { # PATH: as session.sh's; below another place of the home it is the home, too
  local home
  SIDE=system PREFIX=''
  for home in "/home/$BERTH_OWNER" "${OTHER_HOMES[@]}"; do
    [[ $1 != "$home/"* ]] || SIDE=home PREFIX=$home
  done
}

find_other_homes() { # OTHER_HOMES: where the login has its home, if that is elsewhere: the environment's home is there too
  local each
  OTHER_HOMES=()
  for each in "${HOMES[@]}"; do
    [[ -z $each || $each == "${OTHER_HOMES[0]:-}" || $each == *[[:cntrl:]]* ]] && continue
    is_systems_own "$each" || [[ $each/ == "/home/$BERTH_OWNER"/* || /home/$BERTH_OWNER/ == "$each"/* ]] && continue
    lies_in_mount "$each" || OTHER_HOMES+=("$each")
  done
}

add_points() { # to POINTS, what is shown, and places for PLACED: the script, and links to what lies elsewhere inside
  local each inside
  POINTS+=("d /run/berth/host")
  find_other_homes
  for each in "${OTHER_HOMES[@]}"; do POINTS+=("d $each"); done
  for each in "${SHOWN[@]}"; do POINTS+=("d $each"); done
  PLACED=()
  if [[ -n $CARRIER && $CARRIER == /*/* && $CARRIER != *[[:cntrl:]]* ]] && ! lies_in_mount "$CARRIER"; then
    PLACED[$CARRIER]=script
  fi
  for each in "$WORK" "$SUBMITTED"; do
    if [[ $each != /* || $each == *[[:cntrl:]]* ]] || is_systems_own "$each" || is_shown "$each"; then continue; fi
    for inside in "${POINTS[@]}"; do [[ ${inside#* }/ != "${each%/}"/* ]] || continue 2; done # which a link cannot hold
    find_inside "$each"
    [[ $INSIDE == "$each" ]] || lies_in_mount "$each" || PLACED[$each]=$INSIDE
  done
  find_inside "$WORK"
  for each in "${!PLACED[@]}"; do POINTS+=("f $each"); done
}

lies_in_mount() { # PATH: whether something that is mounted inside hides what the system has there
  local point
  for point in "${POINTS[@]}"; do
    point=${point#* }
    [[ $1/ != "${point%/}"/* ]] || return 0
  done
  return 1
}

fill_points() { # those of PLACED in the skeleton that the image has left free
  local path kept=() point
  for path in "${!PLACED[@]}"; do
    inside "$NODE_DIR/image" "$path"
    [[ -f $NODE_DIR/skeleton$FOUND && ! -e $NODE_DIR/image$FOUND ]] || continue
    if [[ ${PLACED[$path]} == script ]]; then
      cp "$NODE_DIR/run/script" "$NODE_DIR/skeleton$FOUND"
      chmod 700 "$NODE_DIR/skeleton$FOUND"
      SCRIPT=$path
    else
      ln -sfT -- "${PLACED[$path]}" "$NODE_DIR/skeleton$FOUND"
    fi
  done
  for point in "${POINTS[@]}"; do [[ -n ${PLACED[${point#* }]:-} ]] || kept+=("$point"); done
  POINTS=("${kept[@]}")
}

check_shown() { # takes out of SHOWN what cannot be mounted where it would be seen
  local each kept=() bind source rest target ok
  for each in "${SHOWN[@]}"; do
    ok=yes
    side_of "$each"
    if [[ $SIDE == home ]]; then
      inside "$HOME_DIR" "${each#"$PREFIX"}" && FOUND=$PREFIX$FOUND
      [[ $FOUND == "$each" && -d $HOME_DIR${FOUND#"$PREFIX"} ]] || ok=''
    else
      inside "$NODE_DIR/root" "$each"
      side_of "$FOUND"
      if [[ ! -d $NODE_DIR/root$FOUND || $SIDE != system ]] || is_systems_own "$FOUND" || holds_home "$FOUND"; then ok=''; fi
    fi
    while IFS= read -rd , bind; do
      source=${bind%%:*} rest=${bind#*:} target=${rest%%:*}
      [[ -z $bind || $each/ != "$target"/* || -d $source${each#"$target"} ]] || ok=''
    done <<<"$BERTH_BINDS,"
    if [[ -n $ok ]]; then
      kept+=("$each")
    else
      printf 'berth: warning: %s\n' "there is no place for $each in the environment: the job works in its own copy" >&2 || :
    fi
  done
  [[ ${#SHOWN[@]} -ne ${#kept[@]} ]] || return 0
  SHOWN=("${kept[@]}")
  find_inside "$WORK"
  write_note
}

bind_words() { # SOURCE DESTINATION: Apptainer reads them as comma-separated values, whose quotes are RFC 4180's
  printf 'type=bind,"source=%s","destination=%s"' "${1//\"/\"\"}" "${2//\"/\"\"}"
}

bind_shown() { # BINDS: what is shown and what the site binds, so that the inner ones come later
  local each bind rest target inner
  local -a mine=("${SHOWN[@]}") after=()
  for each in "${OTHER_HOMES[@]}"; do BINDS+=(--mount "$(bind_words "$HOME_DIR" "$each")"); done
  for each in "${mine[@]}"; do
    inner=''
    while IFS= read -rd , bind; do
      rest=${bind#*:} target=${rest%%:*}
      [[ -z $bind || $each/ != "$target"/* ]] || inner=yes
    done <<<"$BERTH_BINDS,"
    set -- --mount "$(bind_words "$each" "$each")"
    if [[ -n $inner ]]; then after+=("$@"); else BINDS+=("$@"); fi
  done
  [[ -z $BERTH_BINDS ]] || BINDS+=(--bind "$BERTH_BINDS")
  BINDS+=("${after[@]}")
}

make_work() { # the working directory, where it is the environment's own; one that cannot be is the home
  local name
  for name in tmp var/tmp; do
    [[ $INSIDE/ == /$name/* ]] || continue
    mkdir -m 1777 "$NODE_DIR/${name/\//_}"
    mkdir -p -- "$NODE_DIR/${name/\//_}${INSIDE#"/$name"}"
    return
  done
  if [[ $INSIDE == "/home/$BERTH_OWNER"/* ]] && ! is_shown "$INSIDE"; then
    inside "$HOME_DIR" "${INSIDE#"/home/$BERTH_OWNER"}"
    if [[ ! -d $HOME_DIR$FOUND ]]; then
      view "$HOME_DIR"
      mkdir -p -- "$VIEW$FOUND" || refuse "$HOME_DIR" "there is no place for $INSIDE"
    fi
  elif is_systems_own "$INSIDE"; then
    inside "$NODE_DIR/root" "$INSIDE"
    [[ -d $NODE_DIR/root$FOUND ]] || INSIDE=/home/$BERTH_OWNER
  fi
}

mount_environment() { # HOME_DIR, SCRIPT
  local -A PLACED=()
  mkdir -p "$NODE_DIR"/{image,skeleton,points,root,home,empty,view/{0..2}}
  cd "$LAYERS"
  mount_image
  mount_points
  add_points
  make_skeleton
  SCRIPT=$SCRIPT_INSIDE
  fill_points
  if inside "$NODE_DIR/image" /usr/local/bin && [[ -d $NODE_DIR/skeleton$FOUND ]]; then
    write_commands "$NODE_DIR/skeleton$FOUND"
  fi
  mount_system
  check_accounts
  make_top
  HOME_STACK[0]=$TOP
  mount_home
  mend_points home "$HOME_DIR"
  check_shown
  make_work
}

hold_environment() { # STATE COMMAND ARGUMENT…
  local code=0 signal as BINDS=()
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
  [[ ! -d /dev/dri ]] || BINDS+=(--bind /dev/dri)
  bind_shown
  [[ ${1-} != script ]] || set -- "$SCRIPT" "${@:2}"
  # For the commands of Slurm's that are called from inside.
  declare -p NODE_DIR HOME_DIR LOGIN_HOME OTHER_HOMES SHOWN CARRIER SCRIPT DROPPED BERTH_OWNER BERTH_BINDS >"$NODE_DIR/outside"
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
    "${BINDS[@]}" "$NODE_DIR/root" /bin/bash /run/berth/node/enter "$@" <&0 &
  CHILD=$!
  while :; do
    code=0
    wait "$CHILD" || code=$?
    if ((code <= 128)) || ! kill -0 "$CHILD" 2>/dev/null; then exit "$code"; fi # else a signal ended wait
  done
}

# ---- Slurm's commands, and what srun starts -------------------------------------------------------------------------

find_outside() { # PATH, of inside: OUTSIDE: what the node's daemons know it as, or nothing; SEEN: where it is from here
  local bind source rest target name
  OUTSIDE='' SEEN=$NODE_DIR/root$1
  if is_shown "$1"; then OUTSIDE=$1; fi
  while IFS= read -rd , bind; do
    source=${bind%%:*} rest=${bind#*:} target=${rest%%:*}
    if [[ -z $OUTSIDE && -n $bind && $1/ == "$target"/* ]]; then OUTSIDE=$source${1#"$target"}; fi
  done <<<"$BERTH_BINDS,"
  if [[ $1/ == /run/berth/host/* ]]; then OUTSIDE=/${1#/run/berth/host} OUTSIDE=${OUTSIDE/#\/\//\/}; fi
  if [[ $1 == "$SCRIPT" ]]; then OUTSIDE=$CARRIER; fi # with which a job submits itself again, into the same environment
  if [[ -n $OUTSIDE ]]; then
    SEEN=$OUTSIDE
    return
  fi
  side_of "$1/"
  [[ $SIDE != home ]] || SEEN=$HOME_DIR${1#"$PREFIX"}
  for name in tmp var/tmp; do [[ $1/ != /$name/* ]] || SEEN=$NODE_DIR/${name/\//_}${1#"/$name"}; done
}

run_command() { # NODE_DIR COMMAND HOST_PATH DIRECTORY PATH LIBRARIES PRELOAD BASH_ENV ARGUMENT…: outside, for the script inside
  local command=$2
  # shellcheck disable=SC1090,SC1091 # hold_environment has written it
  source "$1/outside"
  export PATH=$3
  BEGINS=(/bin/bash "$DIRECTORY/run/batch.sh" step "${@:3:6}")
  INSIDE=$4
  find_outside "$INSIDE"
  shift 8
  case $command in
    srun) run_srun "$@" ;;
    sbatch | salloc) submit "$command" "$@" ;;
  esac
  export HOME=$LOGIN_HOME
  enter_directory "$OUTSIDE" "$SEEN" /
  case $command in
    sbcast) cast_file "$@" ;;
    scontrol | squeue | sacct) tell_script "$command" "$@" ;;
    *) exec "$command" "$@" ;;
  esac
}

enter_directory() { # DIRECTORY…: the first of them that there is
  local each
  for each in "$@"; do
    if [[ -n $each ]] && cd -- "$each" 2>/dev/null; then return; fi
  done
}

run_srun() { # ARGUMENT…
  enter_directory "$OUTSIDE" "$SEEN" /
  if [[ -n ${SLURM_REMOTE_CWD:-} ]]; then
    take_chdir "$SLURM_REMOTE_CWD"
    export SLURM_REMOTE_CWD=$VALUE
  elif [[ -z $OUTSIDE ]]; then # the node has no such directory
    export SLURM_REMOTE_CWD=/
  fi
  wrap_programs srun "$@"
  exec srun "${WORDS[@]}"
}

submit() { # COMMAND ARGUMENT…: a job that has nothing to do with the environment, but for one that submits itself again
  local place=$OUTSIDE name
  if [[ -z $place ]]; then
    find_work_outside
    place=$WORK_OUTSIDE
  fi
  enter_directory "$place" "$LOGIN_HOME" /
  export HOME=$LOGIN_HOME
  for name in "${!BERTH_@}"; do export -n "${name?}"; done
  eval "$DROPPED"
  [[ $1 == sbatch ]] || exec "$@"
  wrap_programs "$@"
  exec sbatch "${WORDS[@]}"
}

find_work_outside() { # WORK_OUTSIDE: what stands on the node for the directory inside, which is the environment's own
  WORK_OUTSIDE=$INSIDE
  [[ $INSIDE/ != "/home/$BERTH_OWNER"/* ]] || WORK_OUTSIDE=$LOGIN_HOME${INSIDE#"/home/$BERTH_OWNER"}
}

cast_file() { # ARGUMENT…: also to the places that the environment has of its own on each node
  local aim=${*: -1}
  sbcast "$@" || exit
  if [[ $aim == /tmp/* || $aim == /var/tmp/* ]]; then
    printf '%s\n' "$aim" >>"$DIRECTORY/run/nodes/$SLURM_JOB_ID.cast"
    take_cast_files
  fi
  exit 0
}

take_cast_files() { # into the environment on this node, what sbcast has brought to the node
  local path
  [[ -s $DIRECTORY/run/nodes/$SLURM_JOB_ID.cast ]] || return 0
  while IFS= read -r path; do
    find_outside "$path"
    [[ -f $path && (! -e $SEEN || $path -nt $SEEN) ]] || continue
    mkdir -p -- "${SEEN%/*}" && cp -p -- "$path" "$SEEN.$BASHPID" && mv -f -- "$SEEN.$BASHPID" "$SEEN"
  done <"$DIRECTORY/run/nodes/$SLURM_JOB_ID.cast"
}

tell_script() { # COMMAND ARGUMENT…: what it says, with the script where the user has it
  local line
  if [[ $1 == scontrol && " ${*:2}" != *" sho"* ]] || ! find_script_file; then exec "$@"; fi
  set +e
  "$@" | while IFS= read -r line || [[ -n $line ]]; do printf '%s\n' "${line//"$CARRIER_FILE"/"$SCRIPT_FILE"}"; done
  exit "${PIPESTATUS[0]}"
}

find_script_file() { # SCRIPT_FILE: the file that was submitted, if it was one; CARRIER_FILE: what sbatch got in its place
  local name
  [[ -s $DIRECTORY/run/command ]] || return 1
  IFS= read -rd '' SCRIPT_FILE <"$DIRECTORY/run/command" || :
  CARRIER_FILE=$DIRECTORY/run/script/${SCRIPT_FILE##*/}
}

wrap_programs() { # COMMAND WORDS: WORDS: the words, with paths of the node, and each component's program of srun's after BEGINS
  local command=$1 line word name value given before
  local -A takes=() long=()
  local begins=("${BEGINS[@]}") multi=''
  shift
  while IFS= read -r line; do
    [[ $line =~ ^\ \ (-([A-Za-z]),\ |\ \ \ \ )--([a-z-]+)(\[?=)? ]] || continue
    takes[${BASH_REMATCH[3]}]=${BASH_REMATCH[4]:-no}
    [[ -z ${BASH_REMATCH[2]} ]] || long[${BASH_REMATCH[2]}]=${BASH_REMATCH[3]}
  done < <("$command" --help)
  WORDS=()
  while (($#)); do
    word=$1 name='' before=''
    shift
    if [[ $word == : ]]; then
      WORDS+=(:)
      BEGINS=("${begins[@]}") multi=''
    elif [[ $word == -- ]]; then
      WORDS+=(--)
    elif [[ $word == -?* ]]; then
      find_option "$word"
      if [[ -n $given ]]; then
        take_option || WORDS+=("$word")
      elif [[ ${takes[$name]:-} == = ]] && (($#)); then
        value=$1
        shift
        take_option || WORDS+=("$word" "$value")
      else
        WORDS+=("$word")
      fi
      [[ $name != multi-prog ]] || multi=yes
    elif [[ $command == sbatch ]]; then
      take_script "$word"
      WORDS+=("$VALUE" "$@")
      return
    else # the program, up to the next component's options
      if [[ -n $multi ]]; then
        write_programs "$word"
        WORDS+=("$VALUE")
      else
        WORDS+=("${BEGINS[@]}" "$word")
      fi
      while (($#)) && [[ $1 != : ]]; do WORDS+=("$1") && shift; done
    fi
  done
}

find_option() { # WORD: name; value, if one is given with it; before: other options of the same word; all of wrap_programs
  local bunch=${1#-} each
  given='' name='?'
  if [[ $1 == --* ]]; then
    name=${1#--}
    if [[ $name == *=* ]]; then given=yes value=${name#*=} name=${name%%=*}; fi
    name=${name:-?}
    if [[ -n ${takes[$name]:-} ]]; then return; fi
    for each in "${!takes[@]}"; do
      if [[ $each == "$name"* ]]; then
        name=$each
        return
      fi
    done
    return
  fi
  while [[ -n $bunch ]]; do
    each=${bunch:0:1} bunch=${bunch:1}
    name=${long[$each]:-?}
    if [[ ${takes[$name]:-no} != no ]]; then
      if [[ -n $bunch ]]; then given=yes value=$bunch; fi
      return
    fi
    before+=$each
  done
}

take_option() { # adds to WORDS one of srun's options that names a path, as the node knows it; fails for all others
  [[ $command == srun ]] || return 1
  case $name in
    chdir)
      take_chdir "$value"
      BEGINS[4]=$STEP_DIRECTORY
      ;;
    output | error | input)
      [[ $value == /* ]] || return 1
      find_outside "$value"
      if [[ -z $OUTSIDE && $value != /dev/* && $value != /proc/* ]]; then OUTSIDE=$SEEN; fi
      VALUE=${OUTSIDE:-$value}
      ;;
    *) return 1 ;;
  esac
  [[ -z $before ]] || WORDS+=("-$before")
  WORDS+=("--$name=$VALUE")
}

take_chdir() { # DIRECTORY: STEP_DIRECTORY: the same one inside; VALUE: where Slurm begins the step on the node
  STEP_DIRECTORY=$1
  [[ $1 == /* ]] || STEP_DIRECTORY=$INSIDE/$1
  find_outside "$STEP_DIRECTORY"
  VALUE=/
  [[ ! -d $OUTSIDE ]] || VALUE=$OUTSIDE
  BEGINS[4]=$STEP_DIRECTORY
}

take_script() { # WORD: VALUE: what sbatch reads it from; the job's own script stays one of the environment
  local path=$1
  VALUE=$1
  [[ $path == /* ]] || path=$INSIDE/$path
  find_outside "$path"
  if [[ -f $SEEN ]]; then
    [[ -n $OUTSIDE && $OUTSIDE != "$CARRIER" ]] || VALUE=$SEEN
    if find_script_file && [[ $SEEN -ef $SCRIPT_FILE ]] && cmp -s "$SEEN" "$NODE_DIR/run/script"; then VALUE=$CARRIER_FILE; fi
  fi
}

write_programs() { # CONFIGURATION: VALUE: another one for --multi-prog, in which each program begins in the environment
  local path=$1 line more
  [[ $path == /* ]] || path=$INSIDE/$path
  find_outside "$path"
  VALUE=$1
  [[ -r $SEEN ]] || return 0
  VALUE=$(mktemp "$DIRECTORY/run/nodes/$SLURM_JOB_ID.programs.XXXXXXXX")
  printf '%s\0' "${BEGINS[@]:3}" >"$VALUE.words"
  while IFS= read -r line || [[ -n $line ]]; do
    while [[ $line == *\\ ]] && IFS= read -r more; do line=${line%\\}$more; done
    if [[ $line =~ ^[[:blank:]]*([^#[:blank:]]+)[[:blank:]]+(.*)$ ]]; then
      line="${BASH_REMATCH[1]} /bin/bash $DIRECTORY/run/batch.sh program $VALUE.words ${BASH_REMATCH[2]}"
    fi
    printf '%s\n' "$line"
  done <"$SEEN" >"$VALUE"
}

step() { # HOST_PATH DIRECTORY PATH LIBRARIES PRELOAD BASH_ENV PROGRAM ARGUMENT…: a task: joins the environment on its node
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
  if [[ -s $DIRECTORY/run/nodes/$SLURM_JOB_ID.cast ]]; then
    # shellcheck disable=SC1091 # hold_environment has written it
    (source "$NODE_DIR/outside" && take_cast_files)
  fi
  # shellcheck disable=SC2016 # for the shell inside
  exec nsenter --target "$(<"$NODE_DIR/run/pid")" --user --mount --preserve-credentials -- /bin/bash -c '
    if ! cd -- "$1" 2>/dev/null; then # as Slurm does, and in its words
      echo "error: couldn'\''t chdir to \`$1'\'': No such file or directory: going to /tmp instead" >&2
      cd /tmp || exit
    fi
    export PATH=$2 LD_LIBRARY_PATH=$3 LD_PRELOAD=$4 BASH_ENV=$5
    [[ -n $3 ]] || unset LD_LIBRARY_PATH
    [[ -n $4 ]] || unset LD_PRELOAD
    [[ -n $5 ]] || unset BASH_ENV
    exec "${@:6}"' berth "${@:2}"
}

open_for_step() { # NOTE: on a node where the job's script is not; the first of the step's tasks there does it for all
  local key=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  key=${key:-$SLURM_JOB_ID}
  find_homes
  mapfile -t SHOWN < <(sed -n 's/^SHOWN=//p' "$DIRECTORY/run/jobs/$key") # as on the script's node
  WORK=$(sed -n 's/^WORK=//p' "$DIRECTORY/run/jobs/$key") SUBMITTED=$(sed -n 's/^SUBMITTED=//p' "$DIRECTORY/run/jobs/$key")
  CARRIER='' DROPPED=''
  key+=@$SLURMD_NODENAME.$SLURM_STEP_ID
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
  program)
    mapfile -d '' -t WORDS <"$2"
    step "${WORDS[@]}" "${@:3}"
    ;;
  *) die "$USAGE" "usage: batch.sh run|hold|slurm|step|program …" ;;
esac
