# Metrics that are pushed: to VictoriaMetrics, since Debian's Prometheus is built without its receiver for OTLP.
. /usr/lib/guest/scenarios/lib.sh
check dpkg -i "$deb" > /dev/null
store=127.0.0.1:8428
alerts=127.0.0.1:8880

# What Prometheus makes of the resource by itself.
cat > /tmp/relabel.yml <<'Y'
- {source_labels: [service_name], target_label: job}
- {source_labels: [service_instance_id], target_label: instance}
Y
store_begins() {
    systemd-run --quiet --collect --unit store victoria-metrics -storageDataPath=/tmp/store -httpListenAddr=$store \
        -opentelemetry.usePrometheusNaming -relabelConfig=/tmp/relabel.yml -search.latencyOffset=0s -search.disableCache
    until_true curl -sf http://$store/health
}

# A collector of spans, as far as it has to be one: it takes what comes and keeps it.
cat > /tmp/collector <<'C'
length=0
while read -r name value; do
    case $name in
    "$(printf '\r')") break ;;
    [Cc]ontent-[Ll]ength:) length=$(printf %s "$value" | tr -d '\r') ;;
    esac
done
head -c "$length" > "/tmp/spans.$$"
printf 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
C
systemd-run --quiet --unit collector systemd-socket-activate --accept --inetd --listen=127.0.0.1:4318 sh /tmp/collector
spans() {
    cat /tmp/spans.* 2>/dev/null
}

step start
store_begins
systemd-run --quiet --unit alerts vmalert -rule=/usr/share/ktls-trace/ktls-trace.rules.yml -datasource.url=http://$store \
    -httpListenAddr=$alerts -evaluationInterval=5s -notifier.blackhole
# Nothing is there to be scraped but what `status` asks.
sed -i -e 's|^metrics-listen = .*|metrics-listen = "unix:/run/ktls-trace/socket"|' \
    -e "1i otlp-metrics = \"http://$store/opentelemetry/v1/metrics\"\notlp-traces = \"http://127.0.0.1:4318/v1/traces\"\notlp-interval = \"5s\"" /etc/ktls-trace/config.toml
check ktls-trace config check
check systemctl start ktls-trace.service

# of QUERY: what a query finds, as JSON.
of() {
    curl -sf --get --data-urlencode "query=$1" http://$store/api/v1/query | jq -c '.data.result[]'
}
found() {
    [ -n "$(of "$1")" ]
}
until_true found ktls_trace_build_info

step "the alert"
stall_begins
until_true found 'ktls_trace_stalled_sockets{verdict="corked-completed-record",gate="notsent-lowat"} == 1'
alert() {
    curl -sf http://$alerts/api/v1/alerts | jq -e --arg host "$(cat /proc/sys/kernel/hostname)" '
        any(.data.alerts[]; .labels.alertname == "KtlsRecordsCorked" and .state == "firing"
            and .labels.gate == "notsent-lowat" and .labels.instance == $host)' > /dev/null
}
until_true alert
curl -sf http://$alerts/api/v1/alerts | jq -c '.data.alerts[].annotations.summary'
of 'ktls_trace_stalled_sockets > 0'
of 'ktls_trace_holds_total > 0'
until_true found 'ktls_trace_held_seconds_count > 0'
until_true found 'ktls_trace_degraded == 0'

step "without the store"
check systemctl stop store.service
lost() {
    journalctl --no-pager --unit ktls-trace.service --grep 'otlp-metrics: .*it goes on trying' > /dev/null
}
until_true lost
running || fail "it has ended"
before=$(count stall-opened)
stall_ends
stall_begins
until_true at_least $((before + 1)) stall-opened

step "with it again"
store_begins
until_true found 'ktls_trace_lost_total{place="otlp-metrics"} > 0'
again() {
    journalctl --no-pager --unit ktls-trace.service --grep 'otlp-metrics: metrics are taken again' > /dev/null
}
until_true again

step stop
stall_ends
until_true at_least $((before + 1)) stall-closed
# Text lies in a protobuf as it is.
spanned() {
    spans | grep -qa corked-completed-record && spans | grep -qa notsent-lowat
}
until_true spanned
check systemctl stop ktls-trace.service
check sh -c "tail -1 $events | jq -e '.event == \"stopped\" and .lost.\"otlp-metrics\" > 0' > /dev/null"
# The last push tells of the end.
until_true found 'ktls_trace_stalled_sockets{verdict="corked-completed-record",gate="notsent-lowat"} == 0'
check dpkg -P ktls-trace > /dev/null
echo "everything was as it should be"
