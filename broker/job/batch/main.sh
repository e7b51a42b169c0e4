# The command line of batch.sh, which lies in the run directory of the environment, on the shared file system.
#
#   batch.sh run NAMES WRAPPER ARGUMENT…  the job's batch script, on its first node; called by the wrapper script that
#                                         `berth sbatch` submits
#   batch.sh hold … / batch.sh step …     called by itself: in a namespace of its own; a task of srun
#   batch.sh slurm NODE_DIR COMMAND …     a command of Slurm, called in the environment
#   batch.sh program FILE PROGRAM …       a program of srun --multi-prog; FILE has the first arguments of `step`
#
# docs/reference/batch-job.md has what the script sees, the files and the exit codes: those of the script itself, and
# those of lib.sh for what keeps it from running.

LOG_STYLE=user
DIRECTORY=${BASH_SOURCE[0]%/run/*}

batch_main() { # COMMAND ARGUMENT…
  local words
  case ${1-} in
    run)
      read_explicit_variables "$2"
      HOST_PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
      export PATH=$HOST_PATH
      run_script "${@:3}"
      ;;
    hold) environment_main "${@:2}" ;;
    slurm) run_slurm_command "${@:2}" ;;
    step) run_step "${@:2}" ;;
    program)
      mapfile -d '' -t words <"$2"
      run_step "${words[@]}" "${@:3}"
      ;;
    *) die "$USAGE" "usage: batch.sh run|hold|slurm|step|program …" ;;
  esac
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || batch_main "$@"
