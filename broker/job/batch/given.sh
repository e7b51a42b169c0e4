# Keeps the environment that the job came with. This part comes first: any variable of these scripts, a local one too, may
# have the name of a variable that the user has exported (WORK, name, …), and would replace its value in programs.

declare -A _GIVEN=() # values by name
while IFS= read -r _NAME; do _GIVEN[$_NAME]=${!_NAME}; done < <(compgen -e)

find_replaced() { # REPLACED: NAME=VALUE of each given variable whose value is another now, but for those that the scripts set for the job
  local _name
  REPLACED=()
  for _name in "${!_GIVEN[@]}"; do
    case $_name in
      PATH | HOME | LD_LIBRARY_PATH | LD_PRELOAD | BASH_ENV | SLURM_REMOTE_CWD | BERTH_* | APPTAINER* | SINGULARITY*) continue ;;
      PWD | OLDPWD | SHLVL | _) continue ;;
    esac
    if [[ ! -v $_name || ${!_name} != "${_GIVEN[$_name]}" || ${!_name@a} == *[aA]* ]]; then
      REPLACED+=("$_name=${_GIVEN[$_name]}")
    fi
  done
}

exec_as_given() { # COMMAND ARGUMENT…: with the user's own values of all variables
  find_replaced
  exec env "${REPLACED[@]}" "$@"
}
