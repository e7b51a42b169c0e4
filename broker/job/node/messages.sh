# Passes messages between the job and process 1 of the container.
#
# The session may write in run/ of NODE_DIR, which it sees as /run/berth/node, and put links there. So the job, to which /
# is the node's, opens nothing in there: it moves files in that it has written, and moves files out before it reads them.

readonly MESSAGE_BYTES=60 # bytes that are read of what the session has written for the job

write_message() { # NAME TEXT: for process 1 of the container
  printf %s "$2" >"$NODE_DIR/word.$BASHPID" && mv -fT "$NODE_DIR/word.$BASHPID" "$NODE_DIR/run/$1"
}

read_usage() { # `used`, `gpu` and `looked` of the caller: the last report of process 1 of the container
  mv -fT "$NODE_DIR/run/use" "$NODE_DIR/use" 2>/dev/null || :
  [[ -f $NODE_DIR/use && ! -L $NODE_DIR/use ]] || return 0
  read -r used gpu looked < <(head -c "$MESSAGE_BYTES" "$NODE_DIR/use" | tr -d '\0') || :
}
