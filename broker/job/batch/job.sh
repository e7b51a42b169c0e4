# Runs the script of a batch job on its first node: opens the environment, forwards signals, cleans up.

readonly MARK='#### berth: the script itself follows; the node cuts it off here'
readonly PASSED_ON=(HUP INT QUIT USR1 USR2 TERM CONT ALRM WINCH) # signals, to the script
readonly LOCK_WAIT_S=300 # seconds that a job that was requeued waits for its former run to end

open_job_env() { # sets what the functions of lib.sh and node/ need
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

make_job_dir() { # NODE_DIR and TMP_DIR, with our process id in their names; removes what killed jobs of this user's left on the node
  local base=${SLURM_TMPDIR:-/tmp} me=$BASHPID old pid PLACES
  list_tmp_places
  for base in "${PLACES[@]}" "$base"; do
    for old in "$base/berth-batch-$UID".*; do
      pid=${old#"$base/berth-batch-$UID."} pid=${pid%%.*}
      if [[ -d $old && -O $old && ! -L $old ]] && ! kill -0 "$pid" 2>/dev/null; then remove_tree "$old"; fi
    done
  done
  NODE_DIR=$(mktemp -d "$base/berth-batch-$UID.$me.XXXXXXXX") || die "$NO_NODE_DIR" "no directory in $base"
  mkdir -m 700 "$NODE_DIR/run"
  make_tmp_dir "berth-batch-$UID.$me"
  if [[ -n ${CARRIER:-} ]]; then
    sed "0,/^$MARK\$/d" "$CARRIER" >"$NODE_DIR/run/script"
    chmod 700 "$NODE_DIR/run/script"
  fi
}

lock_job_note() { # KEY WORK SECONDS: the job's file, which this process keeps locked; TOP: the layer that the job writes to
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
  write_job_note
}

write_job_note() {
  printf '%s\n' "TOP=$TOP" "NODE=$SLURMD_NODENAME" "WORK=$NOTED_WORK" "INSIDE=$INSIDE" "SUBMITTED=$SUBMITTED" \
    "${SHOWN[@]/#/SHOWN=}" >"$NOTED"
}

open_environment() { # NOTE COMMAND ARGUMENT…: CONTAINER: runs the command in there, with our own standard streams
  NOTE=$DIRECTORY/run/nodes/$1 # where the tasks of steps on the same node look for it
  shift
  make_job_dir
  declare -p LAYERS NODE_DIR TMP_DIR DRIVER HOME_STACK SYSTEM_STACK OWNER_UID OWNER_GID TOP WORK SUBMITTED INSIDE SHOWN LOGIN_HOME HOMES \
    NOTED NOTED_WORK CARRIER HOST_PATH MASK EXPLICIT DROPPED _GIVEN "${!BERTH_@}" >"$NODE_DIR/state"
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
  trap clean_up_run EXIT
  save_umask
  forget_login_node
  open_job_env
  SUBMITTED=${SLURM_SUBMIT_DIR:-$WORK}
  find_homes
  find_shown_directories "$WORK" "$SUBMITTED"
  find_inside "$WORK"
  lock_job_note "$key" "$WORK" "$LOCK_WAIT_S" || die "$LOCKED" "job $key runs somewhere else still"
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

clean_up_run() { # on every way out
  local code=$?
  trap '' TERM USR1 USR2 HUP INT
  if [[ -n ${CONTAINER:-} ]]; then kill -TERM "$CONTAINER" 2>/dev/null && wait "$CONTAINER"; fi || :
  [[ -z ${NOTE:-} ]] || rm -f "$NOTE"
  [[ -z ${CARRIER:-} ]] || rm -f "$DIRECTORY/run/nodes/$SLURM_JOB_ID".{cast,programs.*}
  remove_job_dirs
  exit "$code"
}
