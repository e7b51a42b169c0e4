# The program inside the session with which services are listed and opened, and by which no other way leads to them.
#
#   service list          what `berth services` shows
#   service own           what the user has added, for the controller
#   service attach NAME   starts the service; it is open until standard input ends
#   service admit         lets berth-web reach the sockets of the services
#   service door SOCKET…  the command of berth-web: `start NAME` in SSH_ORIGINAL_COMMAND
#   service guest NAME SOCKET  the same for a guest of that service
#   service admit-guest   the same for a guest of a service without a line in web_principals: lets the next connection reach it
#   service publish NAME  as `attach`, for a port of the session: NAME is `port-` and its number
#   service withdraw NAME ends that
#   service relay NAME    the command of such a service
#   service run NAME LOCK the supervisor, by the program itself

service_main() {
  [[ ${1:-} == @(door|guest) || ${2:-} =~ ^([a-z][a-z0-9-]*)?$ ]] || refuse "${2:0:60} is not the name of a service"
  case ${1:-}:${2:-} in
    list:) list_services ;;
    own:) list_own_services ;;
    attach:?*) attach_service "$2" ;;
    admit:) admit_sockets ;;
    door:*) serve_door "${@:2}" ;;
    guest:?*) serve_guest "$2" "$3" ;;
    admit-guest:) admit_guest ;;
    publish:?*) publish_port "$2" ;;
    withdraw:?*) withdraw_port "$2" ;;
    relay:?*) relay_port "$2" ;;
    run:?*) run_service "$2" "$3" ;;
    *) refuse "usage: service list | attach NAME | publish NAME | withdraw NAME" ;;
  esac
}

service_main "$@"
