# journald is gone for a while: everything else goes on, what the journal lost is counted, and it is told again later.
. /usr/lib/guest/scenarios/lib.sh
check dpkg -i "$deb" > /dev/null
check systemctl start ktls-trace.service
journald='systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service'

step "without journald"
# shellcheck disable=SC2086
systemctl stop $journald 2>/dev/null || true
[ ! -e /run/systemd/journal/socket ] || rm /run/systemd/journal/socket
stall_begins
until_true 60 at_least 1 stall-opened
lost() {
    curl -sf http://127.0.0.1:9190/metrics | grep -E '^ktls_trace_lost_total\{place="journal"\} [1-9]'
}
until_true 20 lost
running || fail "it has ended"
check sh -c 'ktls-trace status --json | jq -e ".stalls | length == 1" > /dev/null'

step "with it again"
# shellcheck disable=SC2086
check systemctl start $journald
before=$(count stall-closed)
stall_ends
until_true 30 at_least $((before + 1)) stall-closed
told() {
    journalctl --no-pager --output json KTLS_EVENT=stall-closed | grep -q corked-completed-record
}
until_true 30 told

step stop
check systemctl stop ktls-trace.service
check sh -c "tail -1 $events | jq -e '.event == \"stopped\" and .lost.journal > 0' > /dev/null"

step "it hangs, and is started again by its watchdog"
check systemctl start ktls-trace.service
until_true 10 at_least 2 started
kill -STOP "$(main_pid)"
until_true 120 at_least 3 started
check sh -c "journalctl --no-pager --unit ktls-trace.service | grep -q 'Watchdog timeout'"
until_true 30 running

check systemctl stop ktls-trace.service
check dpkg -P ktls-trace > /dev/null
echo "everything was as it should be"
