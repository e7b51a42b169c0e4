"""`berth cluster`: show what is free."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation

MAX_NODES = 30
"""Nodes that are listed without --nodes."""


@click.command()
@click.option("--nodes", "all_nodes", is_flag=True, help=f"List the nodes also if there are more than {MAX_NODES}.")
@json_option
@pass_invocation
def cluster(invocation: Invocation, *, all_nodes: bool) -> None:
    """Show nodes, partitions and queue, and what would start now.

    CPUS, MEMORY, GPUS and SHARDS are `used/all`. NODES is the number of nodes that take jobs, and of all nodes. LIMIT
    is the longest time limit of a job, and `*` marks the default partition.

    STARTS NOW IN has the largest request of each resource, with little of the others, that fits on one node now. SHARDS
    are those of one GPU. Jobs ahead in the queue, and limits of your account, may delay such a job.

    Berth queries Slurm at most every 30 seconds for all users, unless the site sets another time.
    """
    from broker.text.cluster import cluster_notes, queue_lines
    from broker.text.cluster_tables import largest_table, node_table, partition_table

    view = invocation.client.cluster()
    if invocation.json:
        output.print_json(view)
        return
    listed = view.nodes if all_nodes or len(view.nodes) <= MAX_NODES else []
    for headings, rows, shrink in (partition_table(view), largest_table(view), node_table(listed)):
        if rows:
            output.print_table(headings, rows, shrink=shrink)
            output.print_line("")
    if len(listed) < len(view.nodes):
        output.print_note("`berth cluster --nodes` lists the nodes.")
    for line in queue_lines(view):
        output.print_line(line)
    for note in cluster_notes(view, time.time()):
        output.print_note(note)
