# Run in a guest that counts instructions: each workload without the daemon and with each of its settings. One line a
# figure, columns separated by tabs; what the columns are is known to mod.rs.
set -u
# Both ends of ten thousand connections.
ulimit -n 65536
tab=$(printf '\t')
seconds=$1

now() { cut -d' ' -f1 /proc/uptime; }

begin() {
    begun=$(now)
    : >/tmp/said
    ktls-trace run --probes "$1" --format jsonl --output /tmp/events.jsonl 2>/tmp/said &
    daemon=$!
    until grep -q watching /tmp/said; do sleep 0.01; done
    watching=$(now)
    # With `auto` the hot programs are still being verified.
    sleep 3
}

end() {
    kill $daemon
    wait $daemon
}

# Nanoseconds that the daemon's threads have run.
ran() { cat /proc/$daemon/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f", sum }'; }

lines() { grep -c . /tmp/events.jsonl; }

traced() {
    [ $probes != none ] && [ $probes != again ]
}

measure() {
    name=$1
    shift
    traced && before=$(lines)
    echo "run$tab$name$tab$probes$tab$(ktls-trace repro --json --duration ${seconds}s "$@")"
    traced && echo "lines$tab$name$tab$probes$tab$before$tab$(lines)"
}

# The first transfer of all finds the page cache empty.
ktls-trace repro --duration ${seconds}s --notsent-lowat stock >/dev/null

for probes in none auto light full again; do
    if traced; then
        begin $probes
        echo "start$tab$probes$tab$begun$tab$watching"
        echo "memory$tab$probes$tab$(awk '/VmRSS/ { print $2 }' /proc/$daemon/status)$tab$(awk '/VmHWM/ { print $2 }' /proc/$daemon/status)"
        before=$(ran)
        sleep 60
        echo "idle$tab$probes$tab$before$tab$(ran)"
    fi
    measure 'kTLS sendfile, MSS 65483' --notsent-lowat stock
    measure 'kTLS sendfile, MSS 8948' --notsent-lowat stock --mss 8960
    measure 'kTLS sendfile, MSS 1448' --notsent-lowat stock --mss 1460
    measure 'kTLS write' --notsent-lowat stock --mode write
    measure 'kTLS write, 1 byte each' --notsent-lowat stock --mode write --chunk 1 --nodelay
    measure 'plain TCP sendfile' --notsent-lowat stock --mode plain
    measure 'kTLS sendfile, writer refused all the time' --notsent-lowat stock --sndbuf 128K --mss 1460
    if traced; then
        end
        echo "stopped$tab$probes$tab$(tail -n 1 /tmp/events.jsonl)"
        rm -f /tmp/events.jsonl
    fi
done

opened() { grep -c '"event":"stall-opened"' /tmp/events.jsonl; }

# Waits until so many stalls were told, for a minute at most.
until_opened() {
    for wait in $(seq 1200); do
        [ "$(opened)" -ge "$1" ] && break
        sleep 0.05
    done
}

watched() {
    before=$(ran)
    sleep 10
    after=$(ran)
}

# One stall among sockets that have nothing to send, and many stalls at once.
for crowd in '10 1' '10000 1' '10 1000'; do
    set -- $crowd
    begin auto
    odd many --idle "$1" --stalled "$2" --connections $(($2 + 1)) --seconds 60 >/dev/null &
    workload=$!
    until_opened "$2"
    watched
    resident=$(awk '/VmRSS/ { print $2 }' /proc/$daemon/status)
    kill $workload
    wait $workload
    end
    first=$(grep -m 1 '"event":"stall-opened"' /tmp/events.jsonl)
    echo "crowd$tab$1$tab$2$tab$before$tab$after$tab$resident$tab$first$tab$(opened)$tab$(tail -n 1 /tmp/events.jsonl)"
    rm -f /tmp/events.jsonl
done

echo "programs$tab$(ktls-trace doctor --verify --json)"
