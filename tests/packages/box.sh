# shellcheck shell=bash
# A box: a root directory whose own systemd runs in namespaces of its own (processes, mounts, network, ...) and in a
# cgroup of its own, as on a machine. It sees nothing of this machine's files and processes and has no network. Sourced
# by test_upgrade.sh. Killing the box's first process ends all that runs in it.

box_systemd=/lib/systemd/systemd
box_cgroup=
box_unshare=
box_pid=

# Why this machine can have no box; nothing if it can.
box_obstacle() {
    local cgroups=/sys/fs/cgroup own

    ((EUID == 0)) || { echo "needs root"; return; }
    [[ -d $cgroups/unified ]] && cgroups=$cgroups/unified
    [[ $(stat -f -c %T "$cgroups" 2>/dev/null) == cgroup2fs ]] || { echo "there is no cgroup2 at $cgroups"; return; }
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    own=$cgroups${own%/}/goalloc-packages.$$
    mkdir "$own" 2>/dev/null || { echo "no cgroup can be made in ${own%/*}"; return; }
    rmdir "$own"
    unshare --pid --fork --mount --cgroup --uts --ipc --net true 2>/dev/null || echo "no namespaces can be made"
}

# The first process: it makes the root its own and becomes systemd.
box_init='
set -e
root=$1 pid_file=$2 systemd=$3
read -r pid _ </proc/self/stat # the number outside: /proc is still the old one
echo "$pid" >"$pid_file.new"
mv "$pid_file.new" "$pid_file"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
: >"$root/dev/console"
mount --bind /dev/null "$root/dev/console"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
ip link set lo up 2>/dev/null || true
mkdir "$root/run/old"
cd "$root"
pivot_root . run/old
umount -l /run/old
rmdir /run/old
exec env -i container=box PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_LOG_TARGET=journal \
    "$systemd" --system --unit=multi-user.target --show-status=no'

# What in a Debian talks to a network or a terminal, or comes by the clock.
box_masked=(getty.target console-getty.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
    e2scrub_all.timer fstrim.timer systemd-logind.service systemd-firstboot.service systemd-networkd.service)

# ROOT TMP: start it. TMP holds what it says.
box_start() {
    local root=$1 tmp=$2 cgroups=/sys/fs/cgroup unit own

    for unit in "${box_masked[@]}"; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$root/etc/machine-id" # it is no first boot
    [[ -d $cgroups/unified ]] && cgroups=$cgroups/unified
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    box_cgroup=$cgroups${own%/}/goalloc-packages.$$
    mkdir "$box_cgroup" || return 1
    (
        echo "$BASHPID" >"$box_cgroup/cgroup.procs" || exit 1
        # It dies with this script, and the box with it.
        exec setpriv --pdeathsig KILL unshare --pid --fork --mount --cgroup --uts --ipc --net --propagation private \
            --kill-child bash -c "$box_init" init "$root" "$tmp/pid" "$box_systemd"
    ) >"$tmp/box.output" 2>&1 </dev/null &
    box_unshare=$!
    wait_until 30 box_has_begun || return 1
    box_pid=$(<"$tmp/pid")
    wait_until 120 box_is_up
}

box_has_begun() {
    [[ -f $tmp/pid ]]
}
box_is_up() {
    [[ $(in_box systemctl is-active multi-user.target 2>/dev/null) == active ]]
}

# COMMAND...: in the box.
in_box() {
    timeout 300 nsenter -t "$box_pid" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive "$@"
}

box_end() {
    local i

    [[ -n $box_pid ]] && kill -KILL "$box_pid" 2>/dev/null
    if [[ -n $box_unshare ]]; then
        kill -KILL "$box_unshare" 2>/dev/null
        wait "$box_unshare" 2>/dev/null
    fi
    for ((i = 0; i < 200; i++)); do
        [[ -n $box_cgroup && -d $box_cgroup ]] || break
        find "$box_cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
        sleep 0.02
    done
    box_pid='' box_unshare='' box_cgroup=''
}
