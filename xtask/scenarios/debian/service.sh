# From the package to the firing alert, and back to nothing.
. /usr/lib/guest/scenarios/lib.sh

# Everything that a package may leave, but for what dpkg itself and running services keep.
files() {
    find /bin/ /boot /etc /home /lib/ /opt /root /srv /usr /var -xdev \
        -not -path '/var/lib/dpkg/*' -not -path '/var/cache/*' -not -path '/var/log/*.log' -not -path '/var/tmp/*' \
        -not -path '/var/lib/systemd/*' -not -path '/var/log/journal/*' | sort
}
# Manual pages are left out of what nobody reads in a guest; ours are to be installed, into folders that others share.
rm -f /etc/dpkg/dpkg.cfg.d/99mmdebstrap
dpkg -c "$deb" | awk '$1 ~ /^d/ && $6 ~ /share\/(man|doc)\// { print substr($6, 2) }' | grep -v ktls-trace | xargs -r mkdir -p
files > /tmp/before

step install
check dpkg -i "$deb"
running && fail "it was started by its installation"
check test -s /usr/share/man/man1/ktls-trace.1.gz
check ktls-trace config check
check systemctl enable --quiet ktls-trace.service

step start
check systemctl start ktls-trace.service
running || fail "it does not run"
systemctl show --property StatusText ktls-trace.service > /tmp/status-text
cat /tmp/status-text
check grep -qE '=watching \(5 hooks, [45] more while there is a stall\); stalls: 0 open' /tmp/status-text
check ktls-trace status

step "what it may"
for set in CapEff CapPrm; do
    # CAP_NET_ADMIN, CAP_SYS_PTRACE and CAP_SYS_ADMIN; CAP_SYSLOG is given up once hooks are attached.
    check has "/proc/$(main_pid)/status" "$set:	0000000000281000"
done
check has "/proc/$(main_pid)/status" "CapBnd:	0000000400281000"
# Its threads: who writes needs none of them, who asks of processes CAP_SYS_PTRACE, who attaches hooks CAP_SYS_ADMIN.
for thread in output:0000000000000000 journal:0000000000000000 http:0000000000080000 armory:0000000000200000; do
    status=$(grep -lx "Name:	${thread%:*}" /proc/"$(main_pid)"/task/*/status) || fail "no thread ${thread%:*}"
    check has "$status" "CapEff:	${thread#*:}"
done
systemd-analyze security --no-pager ktls-trace.service | tail -1
# 0 is safest, 10 the worst; what it loses is for what it is for: capabilities, the kernel's tables, other namespaces.
systemd-analyze security --no-pager --threshold=40 ktls-trace.service > /tmp/exposure || {
    grep -v '✓' /tmp/exposure
    fail "more exposed than 4.0"
}

step stall
cat > /tmp/prometheus.yml <<'Y'
global: {scrape_interval: 5s, evaluation_interval: 5s}
rule_files: [/usr/share/ktls-trace/ktls-trace.rules.yml]
scrape_configs: [{job_name: ktls-trace, static_configs: [{targets: ['127.0.0.1:9190']}]}]
Y
systemd-run --quiet --unit prometheus prometheus --config.file=/tmp/prometheus.yml \
    --storage.tsdb.path=/tmp/prometheus --web.listen-address=127.0.0.1:9090
stall_begins
until_true at_least 1 stall-opened
until_true at_least 1 probes-changed
[ -n "$(probes_left)" ] || fail "no probes are there"

step "the journal"
stalls() {
    journalctl --no-pager --output json "$@"
}
stalls VERDICT=corked-completed-record | head -1 | jq -c 'del(.KTLS_JSON)'
# A writer of 6.1 hangs: it never comes back to the hooks that prove it.
case $(uname -r) in
    6.1.*) confidence=consistent ;;
    *) confidence=proven ;;
esac
proves() {
    stalls VERDICT=corked-completed-record | jq -es --arg confidence $confidence '
        any(.[]; .CONFIDENCE == $confidence and .GATE == "notsent-lowat" and (.KTLS_STALL | length > 0)
            and (.HELD_BYTES | tonumber) > 0 and .COMM == "ktls-trace" and .PRIORITY == "4"
            and (.KTLS_JSON | fromjson | .schema) == "ktls-trace/1")' > /dev/null
}
until_true proves
# The stalled service has its stalls among its own messages.
check test -n "$(stalls --unit stall.service VERDICT=corked-completed-record)"

step "a container"
container() {
    jq -es --argjson own "$(stat -Lc %i /proc/1/ns/net)" '
        any(.[]; (.event | startswith("stall-")) and .socket.netns != $own and .evidence.sock_diag != null
            and .process.comm == "ktls-trace")' "$events" > /dev/null
}
systemd-run --quiet --unit container --property PrivateNetwork=yes ktls-trace repro --duration 1h
until_true container
systemctl stop container.service
container_ended() {
    jq -es --argjson own "$(stat -Lc %i /proc/1/ns/net)" '
        any(.[]; .event == "stall-closed" and .socket.netns != $own)' "$events" > /dev/null
}
until_true container_ended

step "files and status"
jq -e . "$events" > /dev/null || fail "$events is not JSON throughout"
check ktls-trace status
check sh -c 'ktls-trace status --json | jq -e ".stalls | length == 1" > /dev/null'

step "a second one does no harm"
check ktls-trace run --duration 3s --format jsonl --output /tmp/second.jsonl --threshold 20ms
check sh -c 'jq -r .event /tmp/second.jsonl | grep -qx stall-opened'
running || fail "the first one has ended"

step reload
before=$(main_pid)
sed -i 's/^probes = .*/&\nthreshold = "30ms"/' /etc/ktls-trace/config.toml
check systemctl reload ktls-trace.service
until_true at_least 1 reloaded
check sh -c "jq -c 'select(.event == \"reloaded\")' $events | grep -qF '\"option\":\"threshold\",\"was\":[\"20ms\"],\"is\":[\"30ms\"]'"
echo 'treshold = "30ms"' >> /etc/ktls-trace/config.toml
check systemctl reload ktls-trace.service
complaint() {
    journalctl --no-pager --unit ktls-trace.service --grep 'no option `treshold`.*going on as before' > /dev/null
}
until_true complaint
sed -i '/^treshold/d' /etc/ktls-trace/config.toml
# What was begun is followed to its end, whatever a new filter looks at.
echo 'port = 1' >> /etc/ktls-trace/config.toml
check systemctl reload ktls-trace.service
until_true at_least 2 reloaded
sleep 4
check sh -c 'ktls-trace status --json | jq -e ".stalls | length == 1" > /dev/null'
sed -i '/^port = 1/d' /etc/ktls-trace/config.toml
check systemctl reload ktls-trace.service
until_true at_least 3 reloaded
[ "$(main_pid)" = "$before" ] || fail "a reload has restarted it"

step "the alert"
alert() {
    curl -sf http://127.0.0.1:9090/api/v1/alerts | jq -e '
        any(.data.alerts[]; .labels.alertname == "KtlsRecordsCorked" and .state == "firing"
            and .labels.gate == "notsent-lowat")' > /dev/null
}
until_true alert
curl -sf http://127.0.0.1:9090/api/v1/alerts | jq -c '.data.alerts[].annotations.summary'
curl -sf 'http://127.0.0.1:9090/api/v1/query?query=ktls_trace_stalled_sockets' | jq -c '.data.result[]'
systemctl stop prometheus.service

step "killed, it comes back and leaves nothing"
sleep 1
kill -KILL "$(main_pid)"
until_true at_least 2 started
until_true running
jq -e . "$events" > /dev/null || fail "$events is not JSON throughout"

step "upgrade to a version that is shipped with another configuration"
before=$(main_pid)
before_opened=$(count stall-opened)
cp /etc/ktls-trace/config.toml /tmp/config.toml
dpkg-deb -R "$deb" /tmp/next
sed -i 's/^Version: .*/&+next/' /tmp/next/DEBIAN/control
echo '# of the next version' >> /tmp/next/etc/ktls-trace/config.toml
dpkg-deb -b /tmp/next /tmp/next.deb > /dev/null
check dpkg -i --force-confold /tmp/next.deb
check sh -c "dpkg-query -W -f '\${Version}' ktls-trace | grep -q '+next$'"
running || fail "it does not run after an upgrade"
[ "$(main_pid)" != "$before" ] || fail "the old program still runs"
check cmp /tmp/config.toml /etc/ktls-trace/config.toml

step stop
until_true at_least $((before_opened + 1)) stall-opened
check systemctl stop ktls-trace.service
tail -2 "$events" | jq -r .event
[ "$(tail -1 "$events" | jq -r .event)" = stopped ] || fail "its last event is another"
jq -s -e '([.[] | select(.event == "stall-opened") | .stall] | unique) as $opened
    | ([.[] | select(.event == "stall-closed") | .stall] | unique) as $closed
    | ([.[] | select(.event == "started")] | length) as $starts
    | ($opened - $closed | length) <= 1 and $starts == 3' "$events" > /dev/null \
    || fail "episodes are left open by more than the one that was killed"
left=$(probes_left)
[ -z "$left" ] || fail "left in the kernel: $left"
stall_ends
# One record in the journal for each event of a stall; of the run that was killed, either may lack the last.
journalctl --sync
written=$(jq -r .event "$events" | grep -c ^stall- || true)
journalled=$(journalctl --no-pager --output json --output-fields KTLS_EVENT KTLS_EVENT=stall-opened KTLS_EVENT=stall-updated \
    KTLS_EVENT=stall-closed | grep -c . || true)
difference=$((journalled - written))
[ "$written" -gt 0 ] && [ "${difference#-}" -le 1 ] || fail "$written events of stalls in the file, $journalled in the journal"

step "purge while it runs"
check systemctl start ktls-trace.service
check dpkg -P ktls-trace
running && fail "it still runs"
files > /tmp/after
diff /tmp/before /tmp/after || fail "left behind, or taken along"
left=$(find / \( -path /proc -o -path /sys -o -path /root -o -path /tmp -o -path /run/log \) -prune -o -name '*ktls-trace*' -print 2> /dev/null || true)
[ -z "$left" ] || fail "left behind: $left"
systemctl --quiet is-enabled ktls-trace.service 2>/dev/null && fail "still enabled"
echo "everything was as it should be"
