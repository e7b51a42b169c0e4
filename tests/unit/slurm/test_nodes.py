"""Nodes, their generic resources and partitions are read from the lines of scontrol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.node_gres import NodeGres, free_gpus, free_shards, parse_node_gres
from slurm.node_state import NodeCondition, takes_jobs
from slurm.nodes import FreeResources, Node, parse_nodes
from slurm.partitions import Partition, parse_partitions

NODE = (
    "NodeName=c1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=3 CPUEfctv=8 CPUTot=8 CPULoad=0.52 AvailableFeatures=(null) "
    "ActiveFeatures=(null) Gres=gpu:intel:2,shard:8 GresDrain=N/A GresUsed=gpu:intel:1(IDX:0),shard:intel:3(0/4,3/4) "
    "NodeAddr=c1 NodeHostName=c1 Version=26.05.5 OS=Linux 6.18.5 #1 SMP  RealMemory=16000 AllocMem=1500 FreeMem=812 "
    "Sockets=8 Boards=1 MemSpecLimit=1000 State=MIXED+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A "
    "Partitions=gpu,urgent  BootTime=2026-11-29T18:00:00 CfgTRES=cpu=8,mem=16000M,billing=8 AllocTRES=cpu=3 "
    "Comment=State=IDLE CPUTot=99 Reason=new kernel, 18:00 [root@2026-11-29T18:01:02]\n"
)
PARTITION = (
    "PartitionName=gpu AllowGroups=staff,physics AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A "
    "DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED "
    "MaxTime=7-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=4 Nodes=c[1-3] PriorityTier=1 RootOnly=NO ReqResv=NO "
    "State=UP TotalCPUs=24 TotalNodes=3 DefMemPerCPU=500 MaxMemPerNode=UNLIMITED TRES=cpu=24,mem=48000M\n"
)


def test_every_field_of_a_node() -> None:
    gres = (
        NodeGres("gpu", "intel", 2, 1, frozenset({0})),
        NodeGres("shard", "", 8, 3, shares=((0, 4), (3, 4))),
    )
    assert parse_nodes(NODE) == {
        "c1": Node(
            name="c1",
            condition=NodeCondition.DRAINING,
            reason="new kernel, 18:00",
            state="MIXED+DRAIN",
            partitions=("gpu", "urgent"),
            cpus=8,
            cpus_used=3,
            memory_mib=15000,
            memory_used_mib=1500,
            gres=gres,
        )
    }
    assert parse_nodes("No nodes in the system\n") == parse_nodes("") == {}


def test_free_resources_of_a_node() -> None:
    free = parse_nodes(NODE.replace("+DRAIN", ""))["c1"].free
    assert free == FreeResources(gpus=0, shards=1, cpus=5, memory_mib=13500)
    assert parse_nodes(NODE)["c1"].free == FreeResources()
    full = NODE.replace("+DRAIN", "").replace("CPUAlloc=3", "CPUAlloc=8")
    assert parse_nodes(full)["c1"].free == FreeResources(), "without a CPU no job can use the GPU"


@pytest.mark.parametrize(
    ("configured", "in_use", "expected"),
    [
        ("(null)", "(null)", ()),
        ("", "", ()),
        ("gpu:2", "gpu:0(IDX:N/A)", (NodeGres("gpu", "", 2, 0),)),
        ("gpu", "gpu:1(IDX:0)", (NodeGres("gpu", "", 1, 1, frozenset({0})),)),
        ("gpu:intel:1(S:0)", "gpu:intel:1(IDX:0)", (NodeGres("gpu", "intel", 1, 1, frozenset({0})),)),
        ("shard:intel:4", "shard:intel:4(2/2,2/2)", (NodeGres("shard", "intel", 4, 4, shares=((2, 2), (2, 2))),)),
        (
            "gpu:a100:2(S:0),gpu:a100:2(S:1),gpu:v100_1g.5gb:7",
            "gpu:a100:3(IDX:0-1,3),gpu:v100_1g.5gb:0(IDX:N/A)",
            (NodeGres("gpu", "a100", 4, 3, frozenset({0, 1, 3})), NodeGres("gpu", "v100_1g.5gb", 7, 0)),
        ),
        ("lustre:no_consume:2K", "lustre:0", (NodeGres("lustre", "", 2048, 0),)),
        ("mps:400", "mps:a:100(100/200,0/200)", (NodeGres("mps", "", 400, 100, shares=((100, 200), (0, 200))),)),
    ],
)
def test_generic_resources(configured: str, in_use: str, expected: tuple[NodeGres, ...]) -> None:
    assert parse_node_gres(configured, in_use) == expected


@given(st.text(), st.text())
def test_no_text_of_resources_is_an_error(configured: str, in_use: str) -> None:
    gres = parse_node_gres(configured, in_use)
    assert free_gpus(gres) >= 0
    assert free_shards(gres) >= 0


@pytest.mark.parametrize(
    ("in_use", "gpus", "shards"),
    [
        ("gpu:intel:0(IDX:N/A),shard:0(0/4,0/4)", 2, 4),
        ("gpu:intel:1(IDX:0),shard:0(0/4,0/4)", 1, 4),
        ("gpu:intel:1(IDX:0),shard:0(-/4,0/4)", 1, 4),
        ("gpu:intel:1(IDX:1),shard:3(3/4,-/4)", 0, 1),
        ("gpu:intel:1(IDX:1),shard:4(4/4,-/4)", 0, 0),
        ("gpu:intel:2(IDX:0-1),shard:0(-/4,-/4)", 0, 0),
        ("gpu:intel:1(IDX:0),shard:1(0/4,1/4)", 0, 3),
        ("gpu:intel:0(IDX:N/A),shard:2(1/4,1/4)", 0, 3),
        ("gpu:intel:0(IDX:N/A),shard:4(4/4,0/4)", 1, 4),
        ("gpu:intel:2(IDX:0-1),shard:0(0/4,0/4)", 0, 0),
        ("gpu:intel:0,shard:3", 2, 5),
    ],
)
def test_gpu_in_shares_is_not_free_as_a_whole(in_use: str, gpus: int, shards: int) -> None:
    gres = parse_node_gres("gpu:intel:2,shard:8", in_use)
    assert (free_gpus(gres), free_shards(gres)) == (gpus, shards)


@pytest.mark.parametrize("state", ["IDLE", "mixed", "ALLOCATED", "MIXED+COMPLETING", "IDLE+CLOUD", "IDLE+DYNAMIC_NORM"])
def test_nodes_that_take_jobs(state: str) -> None:
    assert takes_jobs(state)


@pytest.mark.parametrize(
    "state",
    [
        *("DOWN", "IDLE*", "IDLE+DRAIN", "MIXED+NOT_RESPONDING", "IDLE+PLANNED", "MIXED+RESERVED", "IDLE+MAINTENANCE"),
        *("IDLE+CLOUD+POWERED_DOWN", "IDLE+REBOOT_REQUESTED", "UNKNOWN", "FUTURE", "", "BLOCKED", "IDLE+NEW_WORD"),
    ],
)
def test_nodes_that_take_no_jobs_or_are_in_an_unknown_state(state: str) -> None:
    assert not takes_jobs(state)
    assert parse_nodes(NODE.replace("MIXED+DRAIN", state))["c1"].state == state


def test_text_of_operators_does_not_change_other_fields() -> None:
    hostile = NODE.replace("Comment=State=IDLE", "Comment=x\x1b[2J Partitions=secret AllocMem=0 Reason=y")
    node = parse_nodes(hostile)["c1"]
    assert (node.partitions, node.memory_used_mib, node.state) == (("gpu", "urgent"), 1500, "MIXED+DRAIN")


def test_every_field_of_a_partition() -> None:
    week = 7 * 86400
    assert parse_partitions(PARTITION) == {
        "gpu": Partition(
            "gpu",
            "UP",
            is_default=True,
            groups=("staff", "physics"),
            max_time_s=week,
            default_time_s=3600,
            max_cpus_per_node=4,
            nodes=3,
        )
    }


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("Hidden=YES", {"is_hidden": True}),
        ("RootOnly=YES", {"is_reserved": True}),
        ("ReqResv=YES", {"is_reserved": True}),
        ("State=DRAIN", {"state": "DRAIN"}),
        ("AllowAccounts=a,b", {"accounts": ("a", "b")}),
        ("AllowQos=long", {"qos": ("long",)}),
        ("AllowGroups=ALL", {"groups": ()}),
        ("MaxTime=UNLIMITED", {"max_time_s": None}),
        ("MaxTime=30:00", {"max_time_s": 1800}),
        ("DefaultTime=NONE", {"default_time_s": None}),
        ("MaxCPUsPerNode=UNLIMITED", {"max_cpus_per_node": None}),
        ("MaxMemPerNode=4096", {"max_memory_mib": 4096}),
    ],
)
def test_field_of_a_partition(field: str, expected: dict[str, object]) -> None:
    name = field.partition("=")[0]
    words = [field if word.startswith(f"{name}=") else word for word in PARTITION.split(" ")]
    text = " ".join(words).rstrip("\n") + "\n"
    (part,) = parse_partitions(text).values()
    assert {name: getattr(part, name) for name in expected} == expected


def test_lines_that_are_cut_off_are_an_error() -> None:
    for parse, text in ((parse_nodes, NODE), (parse_partitions, PARTITION)):
        with pytest.raises(ValueError, match="cut off"):
            parse(text[:-1])
        with pytest.raises(ValueError, match="has no"):
            parse(text.replace("State=", "Status="))
