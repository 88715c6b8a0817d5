# What the scripts for a Debian guest share. Each says what it does; the first thing that is wrong ends it.
set -eu
export LC_ALL=C SYSTEMD_PAGER= SYSTEMD_COLORS=0
deb=/root/ktls-trace.deb
events=/var/log/ktls-trace/events.jsonl

step() {
    echo "== $* ($(cut -d' ' -f1 /proc/uptime) s)"
}

fail() {
    echo "FAILED: $*"
    systemctl --no-pager --full status ktls-trace.service || true
    journalctl --no-pager --unit ktls-trace.service --lines 40 || true
    exit 1
}

# check CMD…: it has to succeed.
check() {
    "$@" || fail "$*"
}

# until_true CMD…: it has to succeed some time. The limit is for what never does; how long things take is not looked at here, an emulated
# machine may be slow.
until_true() {
    limit=$(($(cut -d. -f1 /proc/uptime) + 300))
    until "$@"; do
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$limit" ] || fail "not in time: $*"
        sleep 0.5
    done
}

# has FILE TEXT
has() {
    grep -qF -- "$2" "$1"
}

# Number of events of that name in the file.
count() {
    jq -r .event "$events" | grep -cx "$1" || true
}

# at_least NUMBER EVENT
at_least() {
    [ "$(count "$2")" -ge "$1" ]
}

main_pid() {
    systemctl show --property MainPID --value ktls-trace.service
}

running() {
    systemctl --quiet is-active ktls-trace.service
}

# The report's stall, as a service of its own, until stall_ends.
stall_begins() {
    systemd-run --quiet --unit stall ktls-trace repro --duration 1h
}

stall_ends() {
    systemctl stop stall.service
}

# Functions that something is called for, by a trampoline or a kprobe. Programs and maps can't be told by: systemd has some of
# its own.
probes_left() {
    grep -E '^(tls|tcp|sk)_' /sys/kernel/tracing/enabled_functions || true
}
