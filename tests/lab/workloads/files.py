"""Workloads on plain files: a writer whose changes are known, fio with verification, and stress-ng's stressors."""

from __future__ import annotations

from pathlib import Path

from tests.lab.workloads.workload import FLIP, PAUSE, Workload

RANDOM_WRITER = Workload(
    name="random-writer",
    prepare="",
    work="exec python3 random_writer_program.py write ~/random-writer done",
    progress="cat done 2>/dev/null || :",
    judge="python3 random_writer_program.py judge ~/random-writer $1",
    damage=f"{FLIP} $(ls -S ~/random-writer/file* | head -1) 0",
    complaint="WrongError",
    programs=(Path(__file__).with_name("random_writer_program.py"),),
)

RANDOM_WRITER_IN_SYSTEM = Workload(
    name="random-writer-in-system",
    prepare="",
    work=RANDOM_WRITER.work.replace("~/", "/opt/"),
    progress=RANDOM_WRITER.progress,
    judge=RANDOM_WRITER.judge.replace("~/", "/opt/"),
    damage=RANDOM_WRITER.damage.replace("~/", "/opt/"),
    complaint=RANDOM_WRITER.complaint,
    programs=RANDOM_WRITER.programs,
)

_FIO = "fio --directory=$HOME/fio --verify=crc32c --verify_fatal=1 --verify_state_save=0 --size=4m --minimal"
_CHECKED = f"""
{_FIO} --name=laid --rw=read --bs=4k --ioengine=psync
{_FIO} --name=buffered --rw=read --bs=16k --ioengine=psync
{_FIO} --name=direct --rw=read --bs=4k --ioengine=psync
"""
FIO = Workload(
    name="fio",
    # `laid` is written through a mapping, and nothing syncs it; all blocks of the others have a checksum from now on.
    prepare=f"""
mkdir ~/fio
{_FIO} --name=laid --rw=write --bs=4k --ioengine=mmap --do_verify=0
{_FIO} --name=buffered --rw=write --bs=16k --ioengine=psync
{_FIO} --name=direct --rw=write --bs=4k --ioengine=libaio --direct=1
""",
    work=f"""
n=$(tail -n 1 ~/fio/passes 2>/dev/null || echo 0)
while :; do
  {_FIO} --name=buffered --rw=randwrite --bs=16k --ioengine=psync --randseed=$((n += 1))
  {_FIO} --name=direct --rw=randwrite --bs=4k --ioengine=libaio --iodepth=4 --direct=1 --randseed=$n
  echo $n >>~/fio/passes
  {PAUSE}
done
""",
    progress="tail -n 1 ~/fio/passes 2>/dev/null || :",
    judge=f"{_CHECKED}\ntest $(tail -n 1 ~/fio/passes) -ge $1",
    damage=f"{FLIP} ~/fio/laid.0.0 2000000",
    complaint="Received CRC",
)

STRESSORS = (
    "access chmod", "copy-file dentry", "dir dirmany", "fallocate filename", "flock fpunch", "fsize getdent",
    "hdd io", "iomix link", "lockf metamix", "mknod open", "rename symlink", "sync-file touch", "unlink utime",
    "xattr fstat", "filehole fiemap", "file-ioctl chdir", "dirdeep msync", "mmapmany inotify",
)  # fmt: skip
"""Those of the class file-system that need no privilege, and of memory those that map files: two at once."""
_LIMITS = (
    "--hdd-bytes 4m --iomix-bytes 4m --fallocate-bytes 4m --fpunch-bytes 4m --msync-bytes 4m --dirdeep-inodes 1000"
)
STRESS = Workload(
    name="stress-ng",
    prepare="mkdir ~/stress",
    work=f"""
round() {{
  mkdir -p ~/stress/$n
  stress-ng --temp-path ~/stress/$n --verify --timeout 1 --quiet {_LIMITS} $(printf -- '--%s 1 ' $@)
  rmdir ~/stress/$n
  echo $n >>~/stress/rounds
  {PAUSE}
}}
n=$(tail -n 1 ~/stress/rounds 2>/dev/null || echo 0)
chmod -R u+rwX ~/stress
rm -rf ~/stress/[0-9]*
while :; do
{chr(10).join(f"  : $((n += 1)); round {group}" for group in STRESSORS)}
done
""",
    progress="tail -n 1 ~/stress/rounds 2>/dev/null || :",
    # All that a stressor was at when it was frozen can be read, copied and removed; and the file system still passes.
    judge=f"""
test $(tail -n 1 ~/stress/rounds) -ge $1
cmp ~/stress/rounds <(seq $(tail -n 1 ~/stress/rounds))
chmod -R u+rwX ~/stress # stressors take the permissions of some of their files for a moment
rsync -aHAX ~/stress/ copy/
test -z "$(rsync -aHAXc --dry-run --itemize-changes ~/stress/ copy/)"
rm -rf copy ~/stress/[0-9]*
stress-ng --temp-path ~/stress --verify --timeout 1 --quiet {_LIMITS} $(printf -- '--%s 1 ' {STRESSORS[0]})
""",
    damage=f"{FLIP} ~/stress/rounds 0",
    complaint="differ: byte 1",
)
