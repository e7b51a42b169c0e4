# Messages between the job and process 1 of the container, in files that the session may write.
readonly MESSAGE_BYTES=60 # bytes that are read of what the session has written for the job

write_message() { # NAME TEXT: for process 1 of the container
  printf %s "$2" >"$NODE_DIR/word.$BASHPID" && mv -fT "$NODE_DIR/word.$BASHPID" "$NODE_DIR/run/$1"
}

read_usage() { # `used`, `gpu` and `looked` of the caller's: what process 1 of the container has last written of them
  mv -fT "$NODE_DIR/run/use" "$NODE_DIR/use" 2>/dev/null || :
  [[ -f $NODE_DIR/use && ! -L $NODE_DIR/use ]] || return 0
  read -r used gpu looked < <(head -c "$MESSAGE_BYTES" "$NODE_DIR/use" | tr -d '\0') || :
}
