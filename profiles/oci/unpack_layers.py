"""Unpack the layers of an image, one over the other, into an empty folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import LayerInvalidError, OciImageError
from profiles.oci.entry_path import show_entry
from profiles.oci.openat2 import exists_in_root
from profiles.oci.tar_reader import read_entries
from profiles.oci.tree_writer import TreeWriter
from profiles.oci.unpack_findings import UnpackFindings
from profiles.oci.unpack_limits import UnpackLimits
from profiles.oci.unpack_stream import Compression, LayerStream
from profiles.oci.user_ids import read_id_map
from profiles.walk import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_LIMITS = UnpackLimits()


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A layer as a file on this machine: its compression, and the digest of its uncompressed bytes."""

    path: str
    digest: str
    diff_id: str
    compression: Compression


def unpack_image(layers: Sequence[LayerFile], root: Path, limits: UnpackLimits = DEFAULT_LIMITS) -> UnpackFindings:
    """Unpack the layers, lowest first, into `root`, which is made.

    Raises OciImageError, which names layer and entry, and OSError. Then the tree is unfinished.
    """
    if len(layers) > limits.layers:
        raise OciImageError(
            f"the image has {len(layers)} layers, and {limits.layers} are the most",
            hint="build the image again with fewer layers",
        )
    root.mkdir(mode=0o755)
    findings = UnpackFindings()
    with TreeWriter(root, read_id_map("uid_map"), read_id_map("gid_map"), findings) as writer:
        for number, layer in enumerate(layers, start=1):
            try:
                _unpack(layer, writer, findings, limits)
            except LayerInvalidError as error:
                entry = f", entry {show_entry(error.entry)}" if error.entry else ""
                raise OciImageError(
                    f"layer {number} of {len(layers)} ({layer.digest[:19]}){entry}: {error.message}",
                    hint=error.hint or "nothing was published; the image cannot be used as it is",
                ) from error
        writer.finish()
    with Tree(root) as tree:
        findings.has_shell = exists_in_root(tree.root_descriptor, b"bin/sh")
    return findings


def _unpack(layer: LayerFile, writer: TreeWriter, findings: UnpackFindings, limits: UnpackLimits) -> None:
    writer.begin_layer()
    with LayerStream(Path(layer.path), layer.compression, limits, findings.unpacked_bytes) as stream:
        for entry in read_entries(stream):
            findings.entries += 1
            if findings.entries > limits.entries:
                raise LayerInvalidError(f"the image has more than {limits.entries} entries, the most for a base")
            findings.names_bytes += len(entry.name)
            if findings.names_bytes > limits.names_bytes:
                raise LayerInvalidError(f"the names in the image have more than {limits.names_bytes >> 20} MiB")
            writer.add(entry, stream)
        digest = stream.finish()
        if digest != layer.diff_id:
            raise LayerInvalidError(
                f"its content has the digest {digest[:19]}, and the image's configuration says {layer.diff_id[:19]}",
                hint="the image is damaged: fetch it again",
            )
        findings.unpacked_bytes += stream.unpacked
