# Runs a task of srun in the environment on its node, and opens it there if need be.

readonly OPEN_WAIT_TENTHS=1200 # tenths of a second that a task waits for the environment on its node to open

run_step() { # HOST_PATH DIRECTORY PATH LIBRARIES PRELOAD BASH_ENV PROGRAM ARGUMENT…: a task: joins the environment on its node
  local note=$DIRECTORY/run/nodes/$SLURM_JOB_ID.$SLURMD_NODENAME tries
  HOST_PATH=$1 INSIDE=$2
  export PATH=$HOST_PATH
  if [[ ! -e $note ]]; then
    note+=.$SLURM_STEP_ID
    (open_for_step "$note") </dev/null >/dev/null &
  fi
  for ((tries = 0; tries < OPEN_WAIT_TENTHS; tries++)); do
    if [[ -s $note ]] && NODE_DIR=$(<"$note") && [[ -s $NODE_DIR/run/pid ]]; then break; fi
    sleep 0.1
  done
  [[ -s ${NODE_DIR:-}/run/pid ]] || die "$UNFIT_NODE" "the environment could not be opened on $SLURMD_NODENAME"
  if [[ -s $DIRECTORY/run/nodes/$SLURM_JOB_ID.cast ]]; then
    # shellcheck disable=SC1091 # environment_main has written it
    (source "$NODE_DIR/outside" && collect_broadcast_files)
  fi
  # shellcheck disable=SC2016 # for the shell inside
  exec_as_given nsenter --target "$(<"$NODE_DIR/run/pid")" --user --mount --preserve-credentials -- /bin/bash -c '
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
  trap clean_up_run EXIT
  save_umask
  EXPLICIT='' _GIVEN=() # a step has the variables that srun gives it
  unset "${!BERTH_@}"
  open_job_env
  lock_job_note "$key" '' 0 || exit 0
  open_environment "${1##*/}" sleep infinity
  wait "$CONTAINER" # Slurm ends it with the step
}
