# shellcheck shell=sh
# A service of a session that answers each request with 1 KiB: nginx on the service's socket, as the session's user.
set -eu
place=$(mktemp -d)
body=$(head -c 1023 /dev/zero | tr '\0' x)
cat >"$place/nginx.conf" <<END
daemon off;
worker_processes 1;
pid $place/pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 10000000;
  client_body_temp_path $place/body; proxy_temp_path $place/proxy; fastcgi_temp_path $place/fastcgi;
  uwsgi_temp_path $place/uwsgi; scgi_temp_path $place/scgi;
  server {
    listen unix:$BERTH_SOCKET;
    location / { default_type text/plain; return 200 "$body
"; }
  }
}
END
exec nginx -e stderr -c "$place/nginx.conf"
