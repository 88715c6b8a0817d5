# journald is gone for a while: everything else goes on, what the journal lost is counted, and it is told again later.
. /usr/lib/guest/scenarios/lib.sh
check dpkg -i "$deb" > /dev/null
check systemctl start ktls-trace.service

step "without journald"
systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service 2>/dev/null || true
[ ! -e /run/systemd/journal/socket ] || rm /run/systemd/journal/socket
stall_begins
until_true at_least 1 stall-opened
lost() {
    curl -sf http://127.0.0.1:9190/metrics | grep -E '^ktls_trace_lost_total\{place="journal"\} [1-9]'
}
until_true lost
running || fail "it has ended"
check sh -c 'ktls-trace status --json | jq -e ".stalls | length == 1" > /dev/null'

step "with it again"
# The service alone: it is started after its sockets, which come with it. Asked for one by one, a socket may come when the one before
# has started the service, and is refused.
check systemctl start systemd-journald.service
before=$(count stall-closed)
stall_ends
until_true at_least $((before + 1)) stall-closed
told() {
    journalctl --no-pager --output json KTLS_EVENT=stall-closed | grep -q corked-completed-record
}
until_true told

step stop
check systemctl stop ktls-trace.service
check sh -c "tail -1 $events | jq -e '.event == \"stopped\" and .lost.journal > 0' > /dev/null"

step "it hangs, and is started again by its watchdog"
check systemctl start ktls-trace.service
until_true at_least 2 started
kill -STOP "$(main_pid)"
until_true at_least 3 started
check sh -c "journalctl --no-pager --unit ktls-trace.service | grep -q 'Watchdog timeout'"
until_true running

check systemctl stop ktls-trace.service
check dpkg -P ktls-trace > /dev/null
echo "everything was as it should be"
