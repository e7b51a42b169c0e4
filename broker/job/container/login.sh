# Chooses the environment of ssh logins: the job's and the image's, without variables that would mislead programs.

set_login_environment() { # SETENV: the line of sshd_config that gives ssh logins the environment of the job and the image
  local name value entry
  local -A given=()
  # Constants and variables of this script may have names that the image exports: logins get the image's values.
  while IFS= read -rd '' entry; do [[ $entry != [A-Za-z_]*=* ]] || given[${entry%%=*}]=${entry#*=}; done </proc/self/environ
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
    if [[ $name == SLURM* ]] && ! is_login_variable "$name"; then continue; fi
    value=${!name}
    case $name in
      PATH | LD_LIBRARY_PATH | LANG | XDG_RUNTIME_DIR | BERTH_*) ;; # set above
      *) value=${given[$name]-$value} ;;
    esac
    [[ $value != *[$'\n\r']* ]] || continue # cannot be written on one line
    add_login_variable "$name=$value"
  done < <(compgen -e)
  for entry in "${CLIENT_VARIABLES[@]}"; do # the image's own values win
    [[ -v given[${entry%%=*}] ]] || add_login_variable "$entry"
  done
}

add_login_variable() { # NAME=VALUE: to SETENV, quoted for sshd
  local entry=${1//\\/\\\\}
  SETENV+=" \"${entry//\"/\\\"}\""
}

is_login_variable() { # NAME: whether logins get this variable of Slurm: the job's name and share of the node, no task or step
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

has_locales() { # whether the image has a locale besides C's; if so, ssh clients may choose
  local name
  while read -r name; do
    [[ $name =~ ^(C|POSIX|C\.UTF-8|C\.utf8)?$ ]] || return 0
  done < <(locale -a 2>/dev/null)
  return 1
}
