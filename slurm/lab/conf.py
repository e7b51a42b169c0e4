"""Slurm's own configuration files, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm.lab.rootfs import DATADIR
from slurm.lab.spec import COMPUTE, LOGIN

if TYPE_CHECKING:
    from slurm.lab.spec import LabSpec

GPUS = 2
SHARDS = 8
CPUS = 8
MEMORY_MIB = 16000

COMPUTE_LIST = f"c[1-{len(COMPUTE)}]"
DATABASE_SOCKET = "/run/mariadbd/mysqld.sock"
"""The database has one account, Slurm's, by the user id of the connection."""


def slurm_conf(spec: LabSpec) -> str:
    return f"""\
ClusterName={spec.name}
SlurmctldHost={LOGIN}
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
MpiDefault=none

# Jobs are fenced in by control groups: devices, memory, processes.
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
JobAcctGatherFrequency=task=2
PrologFlags=Contain

# A node counts as 8 CPUs and 16 GB whatever the machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu,shard
NodeName={COMPUTE_LIST} CPUs={CPUS} RealMemory={MEMORY_MIB} Gres=gpu:intel:{GPUS},shard:{SHARDS} State=UNKNOWN

# Quick decisions: no other users share this cluster.
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
ScronParameters=enable
KillWait=15
ReturnToService=2
SlurmdTimeout=30
MaxJobCount=100000
# No job id equals a number in a request, such as of minutes or megabytes.
FirstJobId=100001
JobRequeue=1

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=gpu Nodes={COMPUTE_LIST} Default=YES MaxTime=7-0 State=UP PriorityTier=1
PartitionName=urgent Nodes={COMPUTE_LIST} MaxTime=7-0 State=UP PriorityTier=10 PreemptMode=OFF

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={LOGIN}
AccountingStorageTRES=gres/gpu,gres/shard
AccountingStoreFlags=job_comment
{simulated_nodes(spec.simulated)}"""


def simulated_nodes(count: int) -> str:
    """Return the lines for `count` nodes that exist in slurmctld alone, in a partition `simulated` of their own.

    They are nodes of a cloud that is powered down, whose power programs do nothing (slurm.conf(5), State=CLOUD).
    """
    if not count:
        return ""
    return f"""\
NodeName=s[1-{count}] CPUs=64 RealMemory=256000 State=CLOUD
PartitionName=simulated Nodes=s[1-{count}] MaxTime=7-0 State=UP
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=60
SuspendExcNodes={COMPUTE_LIST}
"""


def gres_conf() -> str:
    """A real site has `AutoDetect=oneapi` instead of the device names."""
    return f"""\
NodeName={COMPUTE_LIST} Name=gpu Type=intel File=/dev/dri/renderD[128-{127 + GPUS}] Flags=intel_gpu_env
NodeName={COMPUTE_LIST} Name=shard Count={SHARDS}
"""


def cgroup_conf(*, unified: bool) -> str:
    """For cgroup v2 without systemd, as cgroup.conf(5) has it for containers, or for cgroup v1."""
    plugin = "cgroup/v2\nIgnoreSystemd=yes\nEnableControllers=yes" if unified else "cgroup/v1"
    return f"CgroupPlugin={plugin}\nConstrainDevices=yes\nConstrainRAMSpace=yes\nConstrainCores=no\n"


def slurmdbd_conf() -> str:
    return f"""\
AuthType=auth/munge
DbdHost={LOGIN}
SlurmUser=slurm
PidFile=/run/slurm/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
"""


def mariadb_conf() -> str:
    """A small database that does not wait for the disk: a commit survives a SIGKILL, but not a power cut."""
    return f"""\
[mariadbd]
datadir={DATADIR}
socket={DATABASE_SOCKET}
pid-file=/run/mariadbd/mariadbd.pid
skip-networking
skip-name-resolve
performance-schema=off
innodb-buffer-pool-size=64M
innodb-log-file-size=8M
innodb-flush-log-at-trx-commit=2
innodb-doublewrite=0
innodb-lock-wait-timeout=900
"""


def sshd_config() -> str:
    return """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
AcceptEnv LANG LC_* COLORTERM
"""
