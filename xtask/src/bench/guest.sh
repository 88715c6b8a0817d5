# Run in a guest that counts instructions. One line a figure, columns separated by tabs; what the columns are is known to
# figures.rs. Arguments: which part (`all`, `check`, or `two` for a guest with two processors), and seconds of a transfer.
set -u
part=$1
seconds=$2
tab=$(printf '\t')
# Both ends of ten thousand connections.
ulimit -n 65536
# Where the packages that others come from expect their loader.
[ -e /lib64 ] || ln -s usr/lib64 /lib64
PATH=$PATH:/usr/bin

now() { cut -d' ' -f1 /proc/uptime; }

# It watches.
watches() {
    watching=$(now)
    # With `auto` the hot programs are still being verified.
    sleep 3
}

# How it began.
beginning() {
    echo "start$tab$setting$tab$begun$tab$watching"
    echo "memory$tab$setting$tab$(memory VmRSS)$tab$(memory VmHWM)"
}

begin() {
    begun=$(now)
    setting=$1
    shift
    ktls-trace run --probes $setting --format jsonl --output /tmp/events.jsonl "$@" 2>/tmp/said &
    daemon=$!
    # Looking again and again would take part of the one processor.
    exec 3</tmp/said
    while read -r line <&3; do
        case $line in *watching*) break ;; esac
    done
    watches
}

begin_bpftrace() {
    begun=$(now)
    bpftrace /usr/lib/bench/peer.bt >/tmp/peer 2>&1 &
    daemon=$!
    # It says that it attaches, but not when it has.
    until [ "$(wc -l </sys/kernel/debug/kprobes/list)" -ge 9 ]; do
        kill -0 $daemon || { cat /tmp/peer >&2; exit 1; }
        sleep 0.1
    done
    watches
}

end() {
    kill -INT $daemon
    wait $daemon
}

# Nanoseconds that the daemon's threads have run.
ran() { cat /proc/$daemon/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f", sum }'; }

lines() { grep -c . /tmp/events.jsonl; }

ours() {
    case $setting in auto | light | full) ;; *) false ;; esac
}

told() {
    ours && echo "lines$tab$1$tab$setting$tab$2$tab$(lines)"
}

# A number of sends: how long each takes.
sends() {
    name=$1
    shift
    ours && before=$(lines)
    echo "sends$tab$name$tab$setting$tab$(odd lockstep "$@")"
    told "$name" "${before-}"
}

# A transfer: how much arrives.
transfer() {
    name=$1
    shift
    ours && before=$(lines)
    echo "transfer$tab$name$tab$setting$tab$(ktls-trace repro --json --duration ${seconds}s --notsent-lowat stock "$@")"
    told "$name" "${before-}"
}

# A million healthy sends: what is told of them.
million() {
    before=$(lines)
    odd lockstep --mode write --bytes 1 --sends 1000000 >/dev/null
    echo "sent$tab$setting${tab}1000000"
    told million "$before"
}

# How often each program has run, and for how long.
hits() {
    wget -q -O - http://127.0.0.1:9190/metrics | sed -n "s/^ktls_trace_program_\(runs\|run_seconds\)_total{hook=\"\([a-z0-9_]*\)\"} \(.*\)/hits$tab\2$tab\1$tab\3/p"
}

# What programs run for sends of a kind.
called() {
    name=$1
    shift
    report=$(odd lockstep "$@")
    hits
    echo "called$tab$name$tab$report"
}

# The workloads of a fixed number of sends, each given to `sends` or `called`.
workloads() {
    $1 'kTLS sendfile, MSS 65483' --sends $some
    $1 'kTLS sendfile, MSS 8948' --sends $some --mss 8960
    $1 'kTLS sendfile, MSS 1448' --sends $some --mss 1460
    $1 'kTLS write' --sends $some --mode write --bytes 16384
    $1 'kTLS write, 1 byte each' --sends $many --mode write --bytes 1
    $1 'kTLS write, refused each time' --sends $some --mode write --bytes 16384 --mss 1460 --refused 65536
    $1 'plain TCP sendfile' --sends $some --mode plain
    $1 'plain TCP write, 1 byte each' --sends $many --mode plain-write --bytes 1
}

# Times that a writer was refused so far.
refusals() { wget -q -O - http://127.0.0.1:9190/metrics | awk '$1 == "ktls_trace_refused_total" { print $2 }'; }

memory() { awk -v name="$1:" '$1 == name { print $2 }' /proc/$daemon/status; }

mkfifo /tmp/said

# The first transfer of all finds the page cache empty.
ktls-trace repro --duration 1s --notsent-lowat stock >/dev/null

case $part in
all)
    settings='none auto light full bpftrace again' many=50000 some=5000 idle=3600
    # `10,10000` takes ten minutes more, all of the processor, and is measured by putting it here.
    crowds='10,1 10000,1 10,1000' crowd_setting=auto
    ;;
check) settings='none auto full' many=10000 some=1000 idle=1 crowds= ;;
# Emulating two processors, QEMU does not stand hooks that come and go on code which runs.
two) settings= crowds='10,1000' crowd_setting=full ;;
esac

for setting in $settings; do
    case $setting in
    none | again) ;;
    bpftrace)
        begin_bpftrace
        beginning
        ;;
    *)
        begin $setting
        beginning
        before=$(ran)
        sleep $idle
        echo "idle$tab$setting$tab$idle$tab$before$tab$(ran)"
        # An hour for one of them is enough.
        idle=60
        ;;
    esac
    workloads sends
    if [ $part = all ]; then
        case $setting in auto | full) million ;; esac
        transfer 'kTLS sendfile, MSS 65483'
        transfer 'kTLS write' --mode write
        transfer 'plain TCP sendfile' --mode plain
        transfer 'kTLS sendfile, writer refused all the time' --sndbuf 128K --mss 1460
    fi
    case $setting in
    none | again) ;;
    bpftrace) end ;;
    *)
        end
        echo "stopped$tab$setting$tab$(tail -n 1 /tmp/events.jsonl)"
        rm -f /tmp/events.jsonl
        ;;
    esac
done

if [ $part = all ]; then
    # A run of its own: a stall is among what it meets.
    begin full --metrics-listen 127.0.0.1:9190
    # How long programs run, by the kernel's own count, which costs time itself.
    sysctl -q kernel.bpf_stats_enabled=1
    some=1000 many=5000
    workloads called
    # What healthy sends never meet.
    ktls-trace repro --duration 3s >/dev/null
    hits
    sysctl -q kernel.bpf_stats_enabled=0
    end
    rm -f /tmp/events.jsonl
fi

opened() { grep -cF '"event":"stall-opened"' /tmp/events.jsonl; }

# Sockets of which a stall was told. One that flows for a second, for want of a processor, and stalls again is told twice.
stalled() { grep -F '"event":"stall-opened"' /tmp/events.jsonl | grep -o '"dst":"[^"]*"' | sort -u | wc -l; }

# Waits until so many stalls were told, for so many seconds at most.
until_opened() {
    limit=$(($(cut -d. -f1 /proc/uptime) + $2))
    # Looking takes the longer the more were told, on the one processor.
    pause=0.05
    [ "$1" -gt 1000 ] && pause=2
    until [ "$(opened)" -ge "$1" ] || [ "$(cut -d. -f1 /proc/uptime)" -ge $limit ]; do
        sleep $pause
    done
}

# Ends the workload, if it has not ended by itself.
end_workload() {
    kill $workload 2>/dev/null
    wait $workload
}

# Ticks that this shell's children have run.
children() { cut -d' ' -f16,17 /proc/$$/stat | awk '{ printf "%d", $1 + $2 }'; }

# One stall among sockets that have nothing to send, and many stalls at once.
for crowd in $crowds; do
    set -- ${crowd%,*} ${crowd#*,}
    # Where metrics are served each open stall is kept as JSON, too, which many would show in the daemon's memory.
    listen=
    [ "$2" -eq 1 ] && listen='--metrics-listen 127.0.0.1:9190'
    wanted=$2 lasting=60
    # The programs have room for 8192 suspects (SUSPECTS): more are not told at once.
    if [ "$2" -gt 8192 ]; then
        wanted=8192 lasting=90
        # Of 2 GiB the kernel lets TCP have less than 192 MiB; so many held records may be more.
        echo '131072 196608 262144' >/proc/sys/net/ipv4/tcp_mem
    fi
    begin $crowd_setting $listen
    odd many --idle "$1" --stalled "$2" --connections $(($2 + 1)) --seconds $lasting >/dev/null &
    workload=$!
    # The last third is for what is measured while it stalls.
    until_opened $wanted $((lasting * 2 / 3))
    refused=-
    [ -n "$listen" ] && refused=$(refusals)
    before=$(ran)
    sleep 10
    after=$(ran)
    [ -n "$listen" ] && refused=$(($(refusals) - refused))
    resident=$(memory VmRSS)
    # Nothing may run through hooks that are taken away, either.
    [ $part = two ] && kill $workload
    end
    first=$(grep -m 1 -F '"event":"stall-opened"' /tmp/events.jsonl)
    echo "crowd$tab$1$tab$2$tab$before$tab$after$tab$refused$tab$resident$tab$first$tab$(stalled)$tab$(tail -n 1 /tmp/events.jsonl)"
    if [ $crowd = 10,1 ]; then
        changed=$(grep -m 1 -F '"event":"probes-changed"' /tmp/events.jsonl)
        closed=$(grep -m 1 -F '"event":"stall-closed"' /tmp/events.jsonl)
        echo "attached$tab$first$tab$changed$tab$closed"
    fi
    rm -f /tmp/events.jsonl
    # With more there is no processor left for it.
    if [ $part = all ] && [ "$2" -le 1000 ]; then
        # Looking at all of them instead, as often as the daemon asks about one.
        before=$(children)
        begun=$(now)
        for look in $(seq 20); do
            ss -tien >/tmp/ss
            sleep 0.05
        done
        echo "ss$tab$1$tab$2$tab$begun$tab$(now)$tab$before$tab$(children)$tab$(wc -l </tmp/ss)"
    fi
    end_workload
done

if [ $part = all ]; then
    # Sockets that are there before the daemon, which asks about all of them once as it begins.
    odd many --idle 10000 --stalled 1 --connections 2 --seconds 120 >/dev/null &
    workload=$!
    # Those that have nothing to send are made first, from port 7002.
    for look in $(seq 60); do
        [ "$(ss -Htn state established sport = :7002 | wc -l)" -ge 10000 ] && break
        sleep 1
    done
    begin auto
    until_opened 1 30
    echo "before${tab}10000$tab$(stalled)$tab$(memory VmRSS)$tab$(memory VmHWM)"
    end
    end_workload
    rm -f /tmp/events.jsonl
fi

echo "programs$tab$(ktls-trace doctor --verify --json)"
