# shellcheck shell=bash
# The guest's layer over its Debian: files, accounts, keys, and which units start. The people's numbers are the lab's.
set -euo pipefail
cp -r "$INPUTS/files/." /
: >/etc/machine-id
: >/etc/resolv.conf
chown slurm: /etc/slurm/slurmdbd.conf
chmod 600 /etc/slurm/slurmdbd.conf

data=/var/lib/slurm/mariadb
mkdir -p $data /var/lib/slurm/slurmctld /var/spool/slurmd /var/log/slurm
chown -R slurm: /var/lib/slurm /var/log/slurm
mariadb-install-db --user=slurm --datadir=$data --innodb-log-file-size=8M --skip-test-db --skip-name-resolve \
  --auth-root-authentication-method=socket --auth-root-socket-user=slurm >/dev/null
# Made here, not by slurmdbd: slurm/lab/rootfs.py says why.
echo 'CREATE DATABASE slurm_acct_db;' | mariadbd --bootstrap --user=slurm --datadir=$data --innodb-log-file-size=8M

number=5001
: >/etc/subuid
: >/etc/subgid
mkdir -p /shared /export/skeleton/shared/datasets /export/skeleton/home /export/local /export/ext4 /export/xfs
for user in alice bob carol; do
  useradd --uid $number --user-group --no-create-home --shell /bin/bash $user
  usermod --password '*' $user # no password, and sshd lets keys in
  echo "$user:$((200000 + (number - 5001) * 65536)):65536" | tee -a /etc/subuid >>/etc/subgid
  cp -r /etc/skel /export/skeleton/home/$user
  chown -R $user: /export/skeleton/home/$user
  chmod 700 /export/skeleton/home/$user
  number=$((number + 1))
done
chmod 755 /export/skeleton /export/skeleton/home /export/skeleton/shared
cp -a /export/skeleton/. /export/local/
cp -a /export/skeleton/. /export/ext4/
{
  echo '/export/local/shared /shared none bind 0 0'
  echo '/export/local/home /home none bind 0 0'
} >>/etc/fstab

head -c 1024 /dev/urandom >/etc/munge/munge.key
chown munge: /etc/munge/munge.key
chmod 400 /etc/munge/munge.key
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C vm -f /etc/ssh/ssh_host_ed25519_key
ln -sf multi-user.target /usr/lib/systemd/system/default.target

enabled=(mariadb slurmdbd slurmctld slurmd munge ssh nfs-server systemd-networkd systemd-networkd-wait-online)
systemctl --root=/ --quiet enable "${enabled[@]}"
systemctl --root=/ --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \
  e2scrub_all.timer e2scrub_reap.service man-db.timer logrotate.timer systemd-timesyncd.service rpc-gssd.service \
  systemd-resolved.service getty@tty1.service
