# Lists what `berth services` shows.

readonly OWN=$HOME/.config/berth/services.d
readonly MAX_FILES=32 FILE_BYTES=131072 # files of the user that are read, and bytes of each: MAX_BYTES in profiles/recipe/yaml_document.py

send() { # KIND NAME CONTENT: a line with kind, bytes and name, and then the content
  local LC_ALL=C
  printf '%s %s %s\n%s' "$1" "${#3}" "${2//[![:graph:]]/?}" "$3"
}

begin_list() {
  printf 'berth-services 1\n' # a login's own files may have written before
}

list_services() { # the profile's services, how far each service is that was opened, and the user's
  local place STATE
  begin_list
  send declared - "$(head -c "$LIST_BYTES" -- "$DECLARED" 2>/dev/null)"
  for place in "$STATES"/*/; do
    place=${place%/}
    read_state "${place##*/}"
    send state "${place##*/}" "$STATE"
  done
  send_own_services
}

list_own_services() { # for the controller, which has the profile
  begin_list
  send_own_services
}

send_own_services() { # published ports, and the user's own files
  local file content count=0
  for file in "$STATES"/port-*/own; do
    send published - "$(head -c "$LIST_BYTES" -- "$file" 2>/dev/null)"
  done
  for file in "$OWN"/*.yaml; do
    if ((++count > MAX_FILES)); then
      send more - "$MAX_FILES"
      return
    elif [[ ! -f $file || ! -r $file ]]; then
      send unfit "${file##*/}" ''
    else
      { content=$(head -c $((FILE_BYTES + 1)) -- "$file" && echo .); } 2>/dev/null
      send file "${file##*/}" "${content%.}"
    fi
  done
}
