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

step "as shipped"
with
[ "$code" = 0 ] || fail "status $code"

loses CAP_NET_ADMIN 'without CAP_NET_ADMIN' CapabilityBoundingSet=~CAP_NET_ADMIN
loses CAP_SYSLOG 'without CAP_SYSLOG' CapabilityBoundingSet=~CAP_SYSLOG
loses CAP_SYS_PTRACE 'without CAP_SYS_PTRACE' CapabilityBoundingSet=~CAP_SYS_PTRACE
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

step purge
rm -r "${drop_in%/*}"
systemctl daemon-reload
check dpkg -P ktls-trace > /dev/null
echo "everything was as it should be"
