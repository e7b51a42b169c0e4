# Runs commands of Slurm on the node, for a script in the environment.

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
  find_side "$1/"
  [[ $SIDE != home ]] || SEEN=$HOME_DIR${1#"$PREFIX"}
  for name in tmp var/tmp; do [[ $1/ != /$name/* ]] || SEEN=$TMP_DIR/${name/\//_}${1#"/$name"}; done
}

run_slurm_command() { # NODE_DIR COMMAND HOST_PATH DIRECTORY PATH LIBRARIES PRELOAD BASH_ENV ARGUMENT…: outside, for the script inside
  local command=$2
  # shellcheck disable=SC1090,SC1091 # environment_main has written it
  source "$1/outside"
  export PATH=$3
  BEGINS=(/bin/bash "$DIRECTORY/run/batch.sh" step "${@:3:6}")
  INSIDE=$4
  find_outside "$INSIDE"
  shift 8
  case $command in
    srun) run_srun "$@" ;;
    sbatch | salloc) submit_job "$command" "$@" ;;
  esac
  export HOME=$LOGIN_HOME
  change_directory "$OUTSIDE" "$SEEN" /
  case $command in
    sbcast) broadcast_file "$@" ;;
    scontrol | squeue | sacct) rewrite_script_path "$command" "$@" ;;
    *) exec_as_given "$command" "$@" ;;
  esac
}

change_directory() { # DIRECTORY…: the first of them that there is
  local each
  for each in "$@"; do
    if [[ -n $each ]] && cd -- "$each" 2>/dev/null; then return; fi
  done
}

run_srun() { # ARGUMENT…
  change_directory "$OUTSIDE" "$SEEN" /
  if [[ -n ${SLURM_REMOTE_CWD:-} ]]; then
    translate_chdir "$SLURM_REMOTE_CWD"
    export SLURM_REMOTE_CWD=$VALUE
  elif [[ -z $OUTSIDE ]]; then # the node has no such directory
    export SLURM_REMOTE_CWD=/
  fi
  wrap_command srun "$@"
  exec_as_given srun "${WORDS[@]}"
}

submit_job() { # COMMAND ARGUMENT…: a job that has nothing to do with the environment, but for one that submits itself again
  local place=$OUTSIDE name
  if [[ -z $place ]]; then
    find_outer_directory
    place=$OUTER_DIRECTORY
  fi
  change_directory "$place" "$LOGIN_HOME" /
  export HOME=$LOGIN_HOME
  for name in "${!BERTH_@}"; do export -n "${name?}"; done
  eval "$DROPPED"
  [[ $1 == sbatch ]] || exec_as_given "$@"
  wrap_command "$@"
  exec_as_given sbatch "${WORDS[@]}"
}

find_outer_directory() { # OUTER_DIRECTORY: what stands on the node for the directory inside, which is the environment's own
  OUTER_DIRECTORY=$INSIDE
  [[ $INSIDE/ != "/home/$BERTH_OWNER"/* ]] || OUTER_DIRECTORY=$LOGIN_HOME${INSIDE#"/home/$BERTH_OWNER"}
}

broadcast_file() { # ARGUMENT…: also to the places that the environment has of its own on each node
  local aim=${*: -1}
  (exec_as_given sbcast "$@") || exit
  if [[ $aim == /tmp/* || $aim == /var/tmp/* ]]; then
    printf '%s\n' "$aim" >>"$DIRECTORY/run/nodes/$SLURM_JOB_ID.cast"
    collect_broadcast_files
  fi
  exit 0
}

collect_broadcast_files() { # into the environment on this node, what sbcast has brought to the node
  local path
  [[ -s $DIRECTORY/run/nodes/$SLURM_JOB_ID.cast ]] || return 0
  while IFS= read -r path; do
    find_outside "$path"
    [[ -f $path && (! -e $SEEN || $path -nt $SEEN) ]] || continue
    mkdir -p -- "${SEEN%/*}" && cp -p -- "$path" "$SEEN.$BASHPID" && mv -f -- "$SEEN.$BASHPID" "$SEEN"
  done <"$DIRECTORY/run/nodes/$SLURM_JOB_ID.cast"
}

rewrite_script_path() { # COMMAND ARGUMENT…: what it says, with the script where the user has it
  local line
  if [[ $1 == scontrol && " ${*:2}" != *" sho"* ]] || ! find_script_file; then exec_as_given "$@"; fi
  set +e
  (exec_as_given "$@") | while IFS= read -r line || [[ -n $line ]]; do printf '%s\n' "${line//"$CARRIER_FILE"/"$SCRIPT_FILE"}"; done
  exit "${PIPESTATUS[0]}"
}

find_script_file() { # SCRIPT_FILE: the file that was submitted, if it was one; CARRIER_FILE: what sbatch got in its place
  local name
  [[ -s $DIRECTORY/run/command ]] || return 1
  IFS= read -rd '' SCRIPT_FILE <"$DIRECTORY/run/command" || :
  CARRIER_FILE=$DIRECTORY/run/script/${SCRIPT_FILE##*/}
}
