# Reads the client settings of a compute node: its proxies, package indexes and certificates, from its administrator.

readonly CLIENT_SETTINGS=/etc/berth/client # on the node; only its administrator can write there
readonly CLIENT_SETTINGS_INSIDE=/run/berth/client
readonly CLIENT_ENVIRONMENT_BYTES=65536 # of the file `environment` that are read

CLIENT_VARIABLES=()

read_client_variables() { # FILE: CLIENT_VARIABLES: its lines NAME=VALUE; a warning for every other line
  local line number=0
  CLIENT_VARIABLES=()
  [[ -r $1 ]] || return 0
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    [[ -n $line && $line != '#'* ]] || continue
    if [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*=[^[:cntrl:]]*$ ]] && ! is_own_variable "${line%%=*}" &&
      ! is_code_variable "${line%%=*}"; then
      CLIENT_VARIABLES+=("$line")
    else
      log "warning: line $number of $CLIENT_SETTINGS/environment is not a NAME=VALUE that sessions take; ask your administrator"
    fi
  done < <(head -c "$CLIENT_ENVIRONMENT_BYTES" -- "$1")
}

is_own_variable() { # NAME: whether the login, the shell, the job or Apptainer sets this variable
  case $1 in
    HOME | USER | LOGNAME | SHELL | MAIL | PATH | PWD | OLDPWD | SHLVL | TERM | TMPDIR | IFS | ENV | BASH* | LD_* | SSH_*) ;;
    BERTH_* | SLURM* | APPTAINER* | SINGULARITY* | XDG_RUNTIME_DIR | _) ;;
    *) return 1 ;;
  esac
}

is_code_variable() { # NAME: whether a shell, the loader, an interpreter, git or a pager runs what the variable names
  case $1 in
    PS[0-9] | PROMPT_COMMAND | SHELLOPTS | CDPATH | GLOBIGNORE | FPATH | ZDOTDIR | INPUTRC | GCONV_PATH | GLIBC_TUNABLES) ;;
    PYTHONSTARTUP | PYTHONPATH | PYTHONHOME | PYTHONINSPECT | PYTHONBREAKPOINT | PERL5* | PERLLIB | RUBYOPT | RUBYLIB) ;;
    NODE_OPTIONS | NODE_PATH | JAVA_TOOL_OPTIONS | JDK_JAVA_OPTIONS | _JAVA_OPTIONS | R_PROFILE* | R_ENVIRON* | LUA_INIT*) ;;
    EDITOR | VISUAL | FCEDIT | PAGER | MANPAGER | BROWSER | LESSOPEN | LESSCLOSE | SUDO_ASKPASS) ;;
    GIT_SSH* | GIT_PROXY_COMMAND | GIT_ASKPASS | GIT_*EDITOR | GIT_PAGER | GIT_EXTERNAL_DIFF | GIT_EXEC_PATH | GIT_TEMPLATE_DIR) ;;
    *) return 1 ;;
  esac
}

bind_client_settings() { # adds them to BINDS, read-only: they are mounted at run time and enter no volume
  [[ ! -d $CLIENT_SETTINGS ]] || BINDS+=(--bind "$CLIENT_SETTINGS:$CLIENT_SETTINGS_INSIDE:ro")
}
