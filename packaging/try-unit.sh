#!/bin/bash
# Tries a package's service under systemd, on this machine and without touching it: systemd runs as process 1 in namespaces
# of its own, on an overlay of the root file system in memory; the package is installed there, a head invites the service's
# node, which computes, is killed, comes back by its certificate and its cache, is upgraded, stopped and purged. Needs root.
#
#     packaging/try-unit.sh PACKAGE.deb MODEL.gguf
set -u

inside() { # in the namespaces, before systemd
  set -e
  mount --make-rprivate /
  mount -t tmpfs tmpfs "$1"
  mkdir "$1"/{upper,work,root}
  local root=$1/root
  mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
  cp "$2" "$root/root/package.deb"
  cp "$3" "$root/root/model.gguf"
  cp "$0" "$root/root/try-unit.sh"
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/run"
  mount -t tmpfs tmpfs "$root/tmp"
  mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
  mkdir "$root"/sys/fs/cgroup/{systemd,unified}
  mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd" 2>/dev/null || true
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
  chroot "$root" dpkg --install --force-depends /root/package.deb
  cd "$root"
  mkdir old
  pivot_root . old
  umount -l /old
  container=other exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=kmsg --show-status=no
}

say() { echo "try-unit: $*"; }
fail() {
  say "FAILED: $*"
  journalctl -u shoal-node --no-pager -o cat | tail -20
  tail -5 head.log
  exit 1
}
wait_for() { # what, then a command
  local what=$1
  shift
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  fail "$what did not come"
}
node_state() { curl -sf http://127.0.0.1:8080/status.json | grep -q '"name":"pi-2"[^{]*"state":"in use"'; }
restarted() { [ "$(systemctl show -P NRestarts shoal-node)" = 1 ]; }
answer() {
  curl -sf -m 60 http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \
    -d '{"prompt":"The sea is","max_tokens":12,"temperature":0}' | grep -o '"text":"[^"]*"'
}

play() { # systemd is process 1 here
  mkdir -p /root/trial && cd /root/trial || exit 1
  export XDG_DATA_HOME=/root/trial/data XDG_CACHE_HOME=/root/trial/cache
  local bytes
  bytes=$(stat -c %s /root/model.gguf)
  cat >home.yaml <<Y
cluster: home
context: 512
sequences: 2
head: laptop
nodes:
  laptop: {address: 127.0.0.1, memory: $((bytes * 2 / 3 + (32 << 20))), threads: 1, port: 7400}
  pi-2: {address: 127.0.0.1, memory: $((bytes * 2 + (64 << 20))), threads: 1}
Y
  setsid shoal serve -c home.yaml -m /root/model.gguf --await-nodes --listen 127.0.0.1:8080 >head.log 2>&1 </dev/null &
  wait_for "the head" grep -q "serving .* on" head.log
  setsid shoal invite -c home.yaml --name pi-2 >token.txt 2>invite.log </dev/null &
  wait_for "a token" grep -q -- "--token" token.txt
  printf 'SHOAL_HEAD=127.0.0.1:7400\nSHOAL_OPTIONS=--name pi-2 --memory %s --threads 1 %s\n' \
    "$((bytes * 2 + (64 << 20)))" "$(grep -o -- '--token .*' token.txt | cut -d' ' -f1-2)" >/etc/default/shoal-node
  systemctl enable --now shoal-node 2>/dev/null || fail "it does not start"
  wait_for "the node" node_state
  local first again
  first=$(answer) || fail "no answer"
  say "it joined and answered: $first"
  [ "$(systemctl show -P User shoal-node)" = shoal ] || fail "it runs as another user"
  systemctl kill -s KILL shoal-node
  sleep 1
  wait_for "its restart" restarted
  wait_for "its return" answer
  again=$(answer)
  [ "$again" = "$first" ] || fail "another answer after its return: $again"
  journalctl -u shoal-node --no-pager -o cat | grep -q "on its disk, 0 B fetched" || fail "it fetched its layers again"
  say "killed, it came back by its certificate and its cache, and the answer is the same"
  local process
  process=$(systemctl show -P MainPID shoal-node)
  dpkg --install --force-depends /root/package.deb >/dev/null 2>&1 || fail "it cannot be installed over itself"
  [ "$(systemctl show -P MainPID shoal-node)" != "$process" ] || fail "an upgrade leaves the old program running"
  wait_for "its return after an upgrade" answer
  say "upgraded, the new program runs and answers"
  systemctl stop shoal-node || fail "it does not stop"
  [ "$(systemctl show -P Result shoal-node)" = success ] || fail "it was not stopped well"
  systemd-analyze security shoal-node --no-pager | tail -1
  dpkg --remove shoal >/dev/null || fail "it cannot be removed"
  ls /etc/default/shoal-node /var/lib/shoal/nodes/pi-2/node.key >/dev/null || fail "removing it took what purging should"
  dpkg --purge shoal >/dev/null 2>&1 || fail "it cannot be purged"
  for left in /etc/default/shoal-node /var/lib/shoal /var/cache/shoal; do
    [ ! -e $left ] || fail "purged, it leaves $left"
  done
  ! getent passwd shoal >/dev/null || fail "purged, it leaves its user"
  say "stopped, removed and purged: all is well"
}

case ${1:-} in
  --inside) inside "$2" "$3" "$4" ;;
  --play) play ;;
  *)
    if [ $# -ne 2 ] || [ "$(id -u)" -ne 0 ]; then
      sed -n '2,6s/^# \{0,1\}//p' "$0"
      exit 2
    fi
    folder=$(mktemp -d)
    unshare --fork --pid --mount --uts --ipc --net --cgroup --kill-child bash "$0" --inside "$folder" "$1" "$2" \
      >"$folder.log" 2>&1 &
    launcher=$!
    for _ in $(seq 100); do
      sleep 0.2
      first=$(pgrep -P "$launcher" | head -1)
      [ -n "$first" ] && enter=(nsenter -t "$first" -m -p -u -i -n -C) &&
        "${enter[@]}" systemctl is-system-running 2>/dev/null | grep -q "running\|degraded" && break
    done
    "${enter[@]}" timeout 120 bash /root/try-unit.sh --play
    result=$?
    [ $result -eq 0 ] || tail -5 "$folder.log"
    kill -KILL "$launcher"
    wait "$launcher" 2>/dev/null
    rm -rf "$folder" "$folder.log"
    exit $result
    ;;
esac
