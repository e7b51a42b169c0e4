# Translates a command line of srun or sbatch: paths of the node, and programs that start in the environment.

wrap_command() { # COMMAND WORDS: WORDS: the words, with paths of the node, and each component's program of srun's after BEGINS
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
      parse_option "$word"
      if [[ -n $given ]]; then
        translate_option || WORDS+=("$word")
      elif [[ ${takes[$name]:-} == = ]] && (($#)); then
        value=$1
        shift
        translate_option || WORDS+=("$word" "$value")
      else
        WORDS+=("$word")
      fi
      [[ $name != multi-prog ]] || multi=yes
    elif [[ $command == sbatch ]]; then
      translate_script "$word"
      WORDS+=("$VALUE" "$@")
      return
    else # the program, up to the next component's options
      if [[ -n $multi ]]; then
        wrap_multi_prog "$word"
        WORDS+=("$VALUE")
      else
        WORDS+=("${BEGINS[@]}" "$word")
      fi
      while (($#)) && [[ $1 != : ]]; do WORDS+=("$1") && shift; done
    fi
  done
}

parse_option() { # WORD: name; value, if one is given with it; before: other options of the same word; all of wrap_command
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

translate_option() { # adds to WORDS one of srun's options that names a path, as the node knows it; fails for all others
  [[ $command == srun ]] || return 1
  case $name in
    chdir)
      translate_chdir "$value"
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

translate_chdir() { # DIRECTORY: STEP_DIRECTORY: the same one inside; VALUE: where Slurm begins the step on the node
  STEP_DIRECTORY=$1
  [[ $1 == /* ]] || STEP_DIRECTORY=$INSIDE/$1
  find_outside "$STEP_DIRECTORY"
  VALUE=/
  [[ ! -d $OUTSIDE ]] || VALUE=$OUTSIDE
  BEGINS[4]=$STEP_DIRECTORY
}

translate_script() { # WORD: VALUE: what sbatch reads it from; the job's own script stays one of the environment
  local path=$1
  VALUE=$1
  [[ $path == /* ]] || path=$INSIDE/$path
  find_outside "$path"
  if [[ -f $SEEN ]]; then
    [[ -n $OUTSIDE && $OUTSIDE != "$CARRIER" ]] || VALUE=$SEEN
    if find_script_file && [[ $SEEN -ef $SCRIPT_FILE ]] && cmp -s "$SEEN" "$NODE_DIR/run/script"; then VALUE=$CARRIER_FILE; fi
  fi
}

wrap_multi_prog() { # CONFIGURATION: VALUE: another one for --multi-prog, in which each program begins in the environment
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
