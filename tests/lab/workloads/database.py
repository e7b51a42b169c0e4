"""PostgreSQL under pgbench. Its data directory is in the home."""

from __future__ import annotations

from tests.lab.workloads.workload import FLIP, Workload

_SERVER = """
export PATH=$(echo /usr/lib/postgresql/*/bin):$PATH PGHOST=/tmp PGDATABASE=postgres
data=~/postgresql
begin() {
  rm -f $data/postmaster.pid # of a server that ended with its session: the number may be another process's now
  pg_ctl -D $data -l server.log -w start >/dev/null
}
"""
_COUNT = "select count(*) from pgbench_history"
"""A transaction is in the history from the moment when it is acknowledged to have been committed."""
_SUMS = """
select a = h and t = h and b = h from
  (select sum(abalance) a from pgbench_accounts) accounts, (select sum(tbalance) t from pgbench_tellers) tellers,
  (select sum(bbalance) b from pgbench_branches) branches,
  (select coalesce(sum(delta), 0) h from pgbench_history) history
"""
"""Each transaction adds its delta to one account, one teller and one branch, and to the history."""
POSTGRESQL = Workload(
    name="postgresql",
    # Small segments and much checkpointing, so that all that recovery has to do is met within seconds.
    prepare=f"""
{_SERVER}
initdb -D $data -A trust --data-checksums --wal-segsize=2 >/dev/null
cat >>$data/postgresql.conf <<.
listen_addresses = ''
unix_socket_directories = '/tmp'
shared_buffers = 4MB
min_wal_size = 8MB
max_wal_size = 16MB
checkpoint_timeout = 30s
.
begin
pgbench -i -q 2>/dev/null
psql -qc 'create extension amcheck'
""",
    work=f"""
{_SERVER}
pg_isready -q || begin
echo there >up
while :; do pgbench -n -c 4 -T 60 --rate=300; done
""",
    progress=f"""
{_SERVER}
! test -e up || psql -Atc '{_COUNT}'
""",
    # A server that was told to end with its session has no recovery to do; one that was frozen has.
    judge=f"""
{_SERVER}
ended=yes
test ! -e $data/postmaster.pid || ended=no
begin
test $ended = yes || grep -q 'automatic recovery in progress' server.log
test $(psql -Atc '{_COUNT}') -ge $1
test "$(psql -Atc '{_SUMS}')" = t
pg_amcheck --heapallindexed postgres
pg_ctl -D $data -m fast -w stop >/dev/null
pg_checksums -D $data --check >/dev/null
""",
    damage=f"""
{_SERVER}
begin
table=$data/$(psql -Atc "select pg_relation_filepath('pgbench_accounts')")
pg_ctl -D $data -m immediate -w stop >/dev/null
{FLIP} $table 20000
""",
    complaint="invalid page in block",
)
