# Root of the environment's user and mount namespace: makes the mounts and starts the container.

readonly COMMANDS=(sacct sacctmgr salloc sattach sbatch sbcast scancel scontrol sinfo sprio squeue sreport srun sstat strigger)
readonly SCRIPT_INSIDE=/run/berth/node/script # where $0 cannot be what it is outside

write_commands() { # DIRECTORY: Slurm's commands as the script finds them: they run outside, where Slurm is
  local name
  for name in "${COMMANDS[@]}"; do
    [[ ! -e $NODE_DIR/image$RESOLVED/$name && ! -L $NODE_DIR/image$RESOLVED/$name ]] || continue
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

clean_environment() { # leaves nothing of Apptainer's in the command's environment
  unset "${!APPTAINER@}" "${!SINGULARITY@}" USER_PATH PROMPT_COMMAND PS1 ENVIRONMENT
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH//\/.singularity.d\/libs/}
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
  [[ -n $LD_LIBRARY_PATH ]] || unset LD_LIBRARY_PATH # an empty entry would mean the current folder
  echo $$ >/run/berth/node/pid.new && mv /run/berth/node/pid.new /run/berth/node/pid
}

environment_main() { # STATE COMMAND ARGUMENT…
  local signal entry as BINDS=()
  local -A VIEWS=()
  # shellcheck disable=SC1090 # open_environment has written it
  source "$1"
  shift
  as=(unshare --user --map-user="$OWNER_UID" --map-group="$OWNER_GID")
  CHILD='' MOUNTED=()
  LOG_STYLE=errors
  trap '[[ ${#MOUNTED[@]} -eq 0 ]] || umount -l "${MOUNTED[@]}"' EXIT
  umask 022
  trap '' "${PASSED_ON[@]}" # in what FUSE runs, too: a signal for all of the job's processes must not unmount the image
  mount_environment
  for signal in "${PASSED_ON[@]}"; do
    # shellcheck disable=SC2064 # which signal it is, is known now
    trap "forward_signal $signal" "$signal"
  done
  [[ ! -d /dev/dri ]] || BINDS+=(--bind /dev/dri)
  bind_client_settings
  read_client_variables "$CLIENT_SETTINGS/environment"
  bind_shown_directories
  [[ ${1-} != script ]] || set -- "$SCRIPT" "${@:2}"
  # For the commands of Slurm's that are called from inside.
  declare -p NODE_DIR TMP_DIR HOME_DIR LOGIN_HOME OTHER_HOMES SHOWN CARRIER SCRIPT DROPPED BERTH_OWNER BERTH_BINDS >"$NODE_DIR/outside"
  export BERTH_SESSION_NAME BERTH_PROFILE BERTH_PROFILE_VERSION
  export APPTAINER_CONFIGDIR=$NODE_DIR/apptainer
  {
    declare -f clean_environment
    echo clean_environment
    echo "umask $MASK" # Apptainer sets one of its own
    for entry in "${CLIENT_VARIABLES[@]}"; do # the image's and the submission's own values win
      printf '[[ -v %s ]] || export %q\n' "${entry%%=*}" "$entry"
    done
    printf %s "$EXPLICIT" # what the image sets, Apptainer has set by now
    echo 'exec "$@"'
  } >"$NODE_DIR/run/enter"
  find_replaced
  # No PID namespace: Slurm ends a job's processes, and those of its steps join these.
  env --default-signal=INT,QUIT "${REPLACED[@]}" "${as[@]}" "$BERTH_APPTAINER" -q exec --contain --no-init --no-umask --no-eval --workdir "$TMP_DIR" \
    --home "$HOME_DIR:/home/$BERTH_OWNER" --cwd "$INSIDE" --bind "$DIRECTORY/run:/run/berth/session:ro" \
    --bind "$DIRECTORY:/run/berth/record:ro" --bind "$NODE_DIR/run:/run/berth/node" --bind /:/run/berth/host \
    "${BINDS[@]}" "$NODE_DIR/root" /bin/bash /run/berth/node/enter "$@" <&0 &
  CHILD=$!
  exit_with_child
}
