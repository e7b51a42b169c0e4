# Passes messages between the job and process 1 of the container, and from the controller to the session's terminals.
#
# The session may write in run/ of NODE_DIR, which it sees as /run/berth/node, and put links there. So the job, to which /
# is the node's, opens nothing in there: it moves files in that it has written, and moves files out before it reads them.

readonly MESSAGE_BYTES=60 # bytes that are read of what the session has written for the job
readonly LISTED_BYTES=65536 # bytes that are read of its list of services: LISTED_BYTES in broker/launcher/read_verbs.py
readonly ENDING_BYTES=1000 # bytes that are read of run/ending
readonly MESSAGE_CHARS=300 # characters of an operator's message, with the operator's name, that terminals show
readonly ENDING_READ_S=1 # seconds for that: a file system that hangs must not delay the end

write_message() { # NAME TEXT: for process 1 of the container
  [[ -n ${NODE_DIR:-} ]] || return 0 # between two runs there is none
  printf %s "$2" >"$NODE_DIR/word.$BASHPID" && mv -fT "$NODE_DIR/word.$BASHPID" "$NODE_DIR/run/$1"
}

read_usage() { # `used`, `gpu`, `looked` and `terminals` of the caller: the last report of process 1 of the container
  mv -fT "$NODE_DIR/run/use" "$NODE_DIR/use" 2>/dev/null || :
  [[ -f $NODE_DIR/use && ! -L $NODE_DIR/use ]] || return 0
  read -r used gpu looked terminals < <(head -c "$MESSAGE_BYTES" "$NODE_DIR/use" | tr -d '\0') || :
}

publish_services() { # copies the list of the user's services that process 1 of the container has made to run/listed, if it has changed
  local file=$DIRECTORY/run/listed listed
  mv -fT "$NODE_DIR/run/listed" "$NODE_DIR/listed" 2>/dev/null || return 0
  [[ -f $NODE_DIR/listed && ! -L $NODE_DIR/listed ]] || return 0
  listed=$(head -c "$LISTED_BYTES" -- "$NODE_DIR/listed" | tr -d '\0' && echo .)
  [[ $listed != "${PUBLISHED_SERVICES:-}" ]] || return 0
  PUBLISHED_SERVICES=$listed
  { printf '%s\n%s' "$BERTH_SUBMISSION.${SLURM_RESTART_COUNT:-0}" "${listed%.}" >"$file.new" && mv -fT "$file.new" "$file"; } 2>/dev/null || :
}

read_ending() { # WHY, RETURN: why the controller ends this job and how the user returns, as run/ending says; empty without it
  local lines=()
  # Without `read`: this runs in a trap, and in bash 5.3 the interrupted `read -t` would then lose its time limit.
  mapfile -t lines < <(
    [[ ! -f $DIRECTORY/run/ending ]] || timeout "$ENDING_READ_S" head -c "$ENDING_BYTES" -- "$DIRECTORY/run/ending" | tr -d '\0'
  ) || :
  WHY='' RETURN=''
  # An earlier submission's file says nothing about this job.
  [[ ${lines[0]:-} != "$BERTH_SUBMISSION" ]] || WHY=${lines[1]:-} RETURN=${lines[2]:-}
  WHY=${WHY//[[:cntrl:]]/} RETURN=${RETURN//[[:cntrl:]]/}
}

announce_end() { # WHY RETURN: what process 1 of the container writes to the terminals before it ends; the first reason stays
  [[ -n ${LISTENS:-} && -z ${END_ANNOUNCED:-} ]] || return 0
  END_ANNOUNCED=yes
  write_message notice $'\r\n'"berth: $BERTH_SESSION_NAME: $1"$'\r\n'"berth: $2"$'\r\n' || :
}

show_operator_message() { # writes the operator's message in run/message to the terminals, once
  local submission='' at='' text=''
  { read -r submission && read -r at && read -r text; } 2>/dev/null <"$DIRECTORY/run/message" || return 0
  [[ $submission == "$BERTH_SUBMISSION" && $at != "${SHOWN_MESSAGE:-}" ]] || return 0
  SHOWN_MESSAGE=$at
  text=${text//[[:cntrl:]]/}
  log "an operator has sent a message to the terminals" # the text is for the owner: guests read this log, too
  write_message notice $'\r\n'"berth: $BERTH_SESSION_NAME: ${text:0:MESSAGE_CHARS}"$'\r\n' || :
}
