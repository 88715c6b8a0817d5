# Each capability of the unit taken away: what is lost is named. And the set for one namespace, without CAP_SYS_ADMIN.
. /usr/lib/guest/scenarios/lib.sh
check dpkg -i "$deb" > /dev/null
drop_in=/run/systemd/system/ktls-trace.service.d/capabilities.conf

# with LINE…: restarts it with these lines in its unit; the answer to `status` is in /tmp/status.
with() {
    mkdir -p "${drop_in%/*}"
    echo '[Service]' > "$drop_in"
    for line in "$@"; do
        echo "$line" >> "$drop_in"
    done
    systemctl daemon-reload
    check systemctl restart ktls-trace.service
    ktls-trace status > /tmp/status && code=0 || code=$?
    cat /tmp/status
}

# loses CAPABILITY TEXT LINE…: with these lines it does not see everything, and says so.
loses() {
    step "without $1"
    capability=$1
    text=$2
    shift 2
    with "$@"
    [ "$code" = 1 ] || fail "without $capability the status is $code"
    has /tmp/status "$text" || fail "without $capability, $text is not named"
}

# tells FILTER: whether events of stalls since it began last are as this says.
tells() {
    jq -es "(map(.event == \"started\") | rindex(true)) as \$began
        | .[\$began:] | map(select(.event | startswith(\"stall-\"))) | length > 0 and ($1)" "$events" > /dev/null
}

# Lets it watch for a while, and ends it: the end of an episode has everything that was seen.
watched() {
    until_true tells 'any(.[]; .event == "stall-opened")'
    sleep 8
    check systemctl stop ktls-trace.service
}

step "as shipped"
# A stall of another user's process, in a network namespace of its own.
systemd-run --quiet --unit stall --uid nobody --property PrivateNetwork=yes ktls-trace repro --duration 1h
with
[ "$code" = 0 ] || fail "status $code"
watched
check tells 'any(.[]; .confidence == "proven" and .process.exe != null and .evidence.sock_diag != null)'
check tells 'any(.[]; .event == "stall-closed" and .released."peer-ack" + .released."persist-timer" > 0)'

# The sockets that sock_diag alone shows, to a unit with these properties.
sockets() {
    systemd-run --quiet --wait --pipe --collect "$@" ktls-trace snapshot --interval 0s --json | jq .counts.sockets
}
[ "$(sockets)" -ge 1 ] || fail "no socket is seen"
[ "$(sockets --property CapabilityBoundingSet=~CAP_NET_ADMIN)" -eq 0 ] || fail "CAP_NET_ADMIN is not needed"
loses CAP_NET_ADMIN 'without CAP_NET_ADMIN' CapabilityBoundingSet=~CAP_NET_ADMIN
loses CAP_SYSLOG 'without CAP_SYSLOG' CapabilityBoundingSet=~CAP_SYSLOG
watched
check tells 'any(.[]; .event == "stall-closed" and .released.unknown > 0)'
check tells 'all(.[]; .released."peer-ack" + .released."persist-timer" == 0)'
loses CAP_SYS_PTRACE 'without CAP_SYS_PTRACE' CapabilityBoundingSet=~CAP_SYS_PTRACE
watched
check tells 'all(.[]; .process.exe == null and .evidence.sock_diag == null)'
loses CAP_SYS_ADMIN 'missing CAP_BPF, CAP_PERFMON' CapabilityBoundingSet=~CAP_SYS_ADMIN

one='CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_SYS_PTRACE CAP_SYSLOG'
own=Environment=KTLS_TRACE_NETNS=self
loses "CAP_SYS_ADMIN, as perf_event_paranoid wants it" 'kernel.perf_event_paranoid is 3' CapabilityBoundingSet= "$one" "$own"
sysctl -q -w kernel.perf_event_paranoid=2
step "one namespace, without CAP_SYS_ADMIN"
with CapabilityBoundingSet= "$one" "$own"
[ "$code" = 0 ] || fail "status $code"
loses CAP_BPF 'missing CAP_BPF' CapabilityBoundingSet= "$one" CapabilityBoundingSet=~CAP_BPF "$own"
loses CAP_PERFMON 'missing CAP_PERFMON' CapabilityBoundingSet= "$one" CapabilityBoundingSet=~CAP_PERFMON "$own"
loses "CAP_SYS_ADMIN, with all namespaces" 'without CAP_SYS_ADMIN' CapabilityBoundingSet= "$one"
watched
check tells 'any(.[]; .process.exe != null) and all(.[]; .evidence.sock_diag == null)'
stall_ends

step purge
rm -r "${drop_in%/*}"
systemctl daemon-reload
check dpkg -P ktls-trace > /dev/null
running && fail "it still runs"
echo "everything was as it should be"
