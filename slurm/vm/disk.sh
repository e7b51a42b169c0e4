#!/bin/bash
# disk.sh: write a guest's disks from its trees, in a mount namespace of its own.
#
# In the environment: LOWER (overlay's lowerdir), ROOT (an empty directory), OUT (where the disks go), SIZE and XFS_SIZE
# (with a unit), KEY (root's and the people's public key). The disks are sparse.
set -euo pipefail
umask 022
: "${LOWER:?}" "${ROOT:?}" "${OUT:?}" "${SIZE:?}" "${XFS_SIZE:?}" "${KEY:?}"
if [ "${1-}" != inside ]; then
  exec unshare --mount --propagation private bash "$0" inside
fi
mkdir "$ROOT" "$OUT/upper" "$OUT/work"
mount -t overlay overlay -o "volatile,lowerdir=$LOWER,upperdir=$OUT/upper,workdir=$OUT/work" "$ROOT"
cp "$ROOT"/boot/vmlinuz-* "$OUT/vmlinuz"
cp "$ROOT"/boot/initrd.img-* "$OUT/initrd"
install -D -m 600 <(echo "$KEY") "$ROOT/root/.ssh/authorized_keys"
for home in "$ROOT"/export/*/home/*; do
  owner=$(stat -c %u:%g "$home")
  install -d -m 700 "$home/.ssh"
  install -m 600 <(echo "$KEY") "$home/.ssh/authorized_keys"
  chown -R "$owner" "$home/.ssh"
done
mke2fs -q -t ext4 -m 0 -E lazy_itable_init=1,lazy_journal_init=1 -L root -d "$ROOT" "$OUT/root.raw" "$SIZE"
truncate -s "$XFS_SIZE" "$OUT/xfs.raw"
mkfs.xfs -q "$OUT/xfs.raw"
umount "$ROOT"
rm -rf "$OUT/upper" "$OUT/work"
