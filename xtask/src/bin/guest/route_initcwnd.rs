//! `route-initcwnd DEVICE NETWORK SEGMENTS`: what the congestion window is at first of whoever connects to an address of a /24
//! behind a device (`RTM_NEWROUTE` with that metric, as `ip route replace NETWORK dev DEVICE initcwnd SEGMENTS`). busybox's `ip`
//! has no metrics.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use nix::libc;

use crate::rtnetlink::{attribute, index_of, number, request};

/// `RTAX_INITCWND` of `linux/rtnetlink.h`.
const INITCWND: u16 = 11;

/// Bits of the network.
const PREFIX: u8 = 24;

/// Replaces the route to a network.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> Result<()> {
    let arguments: Vec<String> = arguments.collect();
    let [device, network, segments] = arguments.as_slice() else {
        bail!("route-initcwnd DEVICE NETWORK SEGMENTS");
    };
    let index = index_of(device)?;
    let network: Ipv4Addr = network
        .parse()
        .with_context(|| format!("{network} is not an address"))?;
    let segments = number(segments)?;
    // struct rtmsg: family, both prefixes, TOS, table, protocol, scope, type; flags.
    let mut body = vec![
        u8::try_from(libc::AF_INET)?,
        PREFIX,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_KERNEL,
        libc::RT_SCOPE_LINK,
        libc::RTN_UNICAST,
    ];
    body.extend([0; 4]);
    attribute(&mut body, libc::RTA_DST, &network.octets());
    attribute(&mut body, libc::RTA_OIF, &index.to_ne_bytes());
    let mut metrics = Vec::new();
    attribute(&mut metrics, INITCWND, &segments.to_ne_bytes());
    attribute(&mut body, libc::RTA_METRICS, &metrics);
    request(libc::RTM_NEWROUTE, &body).with_context(|| format!("a route to {network}/{PREFIX}"))
}
