# shellcheck shell=bash disable=SC2016,SC2086,SC2029,SC2154 # a part of a script: tests/lab/ways.py has the beginning
# What JetBrains Gateway does: many short commands one after the other, an archive of the IDE by sftp, its checksum, the
# backend started in the background, and a port of it forwarded.
for command in 'uname -sm' 'echo $HOME' 'ls -1a' 'test -d .cache || echo none' 'cat /etc/os-release' 'df -Pk .' 'nproc'; do
  ssh -n $HOST "$command" >>said
done
for n in {1..20}; do ssh -n $HOST "echo $n"; done
head -c 50000000 /dev/urandom >ide.tar.gz
printf 'mkdir .ide-dist\nput ide.tar.gz .ide-dist/ide.tar.gz\nls -l .ide-dist\n' |
  sftp -q -F $CONFIG -o BatchMode=yes -b - $HOST >/dev/null
test "$(ssh -n $HOST 'sha256sum <.ide-dist/ide.tar.gz')" = "$(sha256sum <ide.tar.gz)"
port=$(ssh -n $HOST "$FREE_PORT") local=$(eval $FREE_PORT)
ssh -n $HOST "cd .ide-dist; echo backend >page
  setsid nohup python3 -m http.server --bind 127.0.0.1 $port >/dev/null 2>&1 </dev/null & echo \$! >pid"
"${SSH[@]}" -N -L $local:127.0.0.1:$port $HOST >/dev/null 2>log & tunnel=$!
trap 'kill $tunnel' EXIT
eventually curl -sf -m 5 -o /dev/null http://127.0.0.1:$local/page
curl -sf -m 10 http://127.0.0.1:$local/page
ssh -n $HOST 'kill $(cat .ide-dist/pid); rm -r .ide-dist'
