# Sorts the environment variables of a submission: those for the script, and those that would mislead a program in the image.

# What says something of the login node, and would mislead a program in the image. DROPPED: shell lines that give it back
# to jobs that are submitted from inside.
forget_login_node() {
  local name
  unset LD_LIBRARY_PATH LD_PRELOAD LIBRARY_PATH CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH PKG_CONFIG_PATH MANPATH INFOPATH \
    PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV PERL5LIB R_LIBS TMPDIR TMP TEMP BASH_ENV ENV DISPLAY XAUTHORITY \
    PROMPT_COMMAND LS_COLORS MAIL
  for name in "${!XDG_@}" "${!SSH_@}" "${!DBUS_@}" "${!CONDA_@}" "${!LMOD_@}" "${!MODULE@}" "${!LOADEDMODULES@}" \
    "${!_LMFILES_@}" "${!_ModuleTable@}" "${!BASH_FUNC_@}" "${!BERTH_@}" "${!APPTAINER@}" "${!SINGULARITY@}"; do
    unset "$name"
  done
  DROPPED=''
  for name in "${!_GIVEN[@]}"; do
    [[ ! -v $name ]] || continue
    [[ $name =~ ^(BERTH_|APPTAINER|SINGULARITY) ]] || DROPPED+="[[ -v $name ]] || export $name=${_GIVEN[$name]@Q}"$'\n'
    unset "_GIVEN[$name]"
  done
}

read_explicit_variables() { # NAMES: EXPLICIT: shell lines that set the variables that the submission names, with the values that they came with
  local name names
  IFS=, read -ra names <<<"$1"
  EXPLICIT=''
  for name in "${names[@]}"; do
    case $name in PWD | OLDPWD | SHLVL | _ | UID | EUID | PPID | SHELLOPTS | BASHOPTS) continue ;; esac # bash's own
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ && -v _GIVEN[$name] ]] || continue
    EXPLICIT+="export $name=${_GIVEN[$name]@Q}"$'\n'
  done
}

save_umask() { # MASK: the job's, for its script; what we make ourselves must be ours to use, whatever that is
  MASK=$(umask)
  umask 077
}
