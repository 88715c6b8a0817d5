#!/bin/sh
# over-veth MTU [QDISC…] -- COMMAND…: runs COMMAND with a veth pair between this network namespace (10.9.0.1, device
# va) and another one (10.9.0.2), whose path is in $PEER. QDISC… goes on va, as `qdisc va QDISC…` takes it.
set -e
mtu=$1
shift
qdisc=
while [ "$1" != -- ]; do
	qdisc="$qdisc $1"
	shift
done
shift
unshare -n sleep 600 &
peer=$!
sleep 0.3
PEER=/proc/$peer/ns/net
export PEER
ip link add va type veth
ip link set veth0 netns $peer
ip link set va mtu "$mtu"
ip addr add 10.9.0.1/24 dev va
ip link set va up
nsenter -t $peer -n sh -c "ip link set lo up; ip link set veth0 mtu $mtu; ip addr add 10.9.0.2/24 dev veth0; ip link set veth0 up"
# shellcheck disable=SC2086
[ -z "$qdisc" ] || qdisc va $qdisc
status=0
"$@" || status=$?
# What is not acknowledged yet will never be: it would keep the other namespace, and the tls module, for minutes.
nsenter -t $peer -n end-connections
kill $peer
ip link del va 2>/dev/null || true
exit $status
