# shellcheck shell=bash disable=SC2016,SC2086,SC2029,SC2154 # a part of a script: tests/lab/ways.py has the beginning
# What VS Code's Remote-SSH does: `ssh -T -D PORT HOST` with a script on standard input, which starts a server that
# outlives the connection, or finds the one that runs, and prints where it listens between two marks. The window then
# talks to it through the SOCKS port. Prints `started` or `found`, and what the server answered.
connect() {
  local socks
  socks=$(eval $FREE_PORT)
  rm -f answer
  "${SSH[@]}" -T -D $socks -o ConnectTimeout=15 $HOST bash <<'END' >answer 2>log &
set -u
cd ~ && mkdir -p .ide-server && cd .ide-server
if [[ -s port ]] && kill -0 "$(cat pid)" 2>/dev/null; then
  how=found
else
  how=started
  cat >server.py <<'PY'
import http.server, os
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
with open("port.new", "w") as file:
    print(server.server_port, file=file)
os.rename("port.new", "port")
server.serve_forever()
PY
  rm -f port
  setsid nohup python3 server.py </dev/null >server.log 2>&1 &
  echo $! >pid
  echo "from the server" >page
  while [[ ! -s port ]]; do sleep 0.05; done
fi
echo "4f1a: start"; echo "listeningOn==$(cat port)=="; echo "how==$how=="; echo "platform==$(uname -sm)=="; echo "4f1a: end"
while sleep 5; do echo alive; done
END
  window=$!
  eventually grep -q '4f1a: end' answer
  sed -n 's/^how==\(.*\)==/\1/p' answer
  curl -sf -m 20 --socks5-hostname 127.0.0.1:$socks "http://127.0.0.1:$(sed -n 's/^listeningOn==\(.*\)==/\1/p' answer)/page"
}

connect
kill -KILL $window  # the laptop's lid is closed
connect
kill $window
ssh -T $HOST 'kill $(cat .ide-server/pid); rm -r .ide-server'
