//! `qdisc DEVICE netem DELAY_MS LOSS_PERCENT`, `qdisc DEVICE tbf BYTES_PER_S BURST LIMIT`, `qdisc DEVICE fq`: gives a
//! device a queueing discipline (`RTM_NEWQDISC`). busybox's `tc` knows none of these.

use anyhow::{Context as _, Result, bail};
use nix::libc;

use crate::rtnetlink::{attribute, index_of, number, request};

/// `TCA_KIND` and `TCA_OPTIONS` of `linux/rtnetlink.h`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_NETEM_LATENCY64` of `linux/pkt_sched.h`.
const NETEM_LATENCY64: u16 = 10;
/// `TCA_TBF_PARMS` and `TCA_TBF_BURST` of `linux/pkt_sched.h`.
const TBF_PARMS: u16 = 1;
const TBF_BURST: u16 = 6;
/// `TC_H_ROOT` of `linux/pkt_sched.h`.
const ROOT: u32 = 0xffff_ffff;
/// `TC_LINKLAYER_ETHERNET` of `linux/pkt_sched.h`.
const ETHERNET: u8 = 1;
/// Packets that netem keeps at most.
const NETEM_LIMIT: u32 = 10_000;

/// Replaces a device's root queueing discipline.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> Result<()> {
    let arguments: Vec<String> = arguments.collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (device, kind, options) = match *words.as_slice() {
        [device, "netem", delay_ms, loss_percent] => (
            device,
            "netem",
            netem(number(delay_ms)?, number(loss_percent)?),
        ),
        [device, "tbf", rate, burst, limit] => (
            device,
            "tbf",
            tbf(number(rate)?, number(burst)?, number(limit)?),
        ),
        [device, "fq"] => (device, "fq", Vec::new()),
        _ => bail!("qdisc DEVICE netem DELAY_MS LOSS_PERCENT | tbf BYTES_PER_S BURST LIMIT | fq"),
    };
    let index = index_of(device)?;
    let mut kind_text = kind.as_bytes().to_vec();
    kind_text.push(0);
    // struct tcmsg: family and padding, index, handle, parent, info.
    let mut body = vec![0; 4];
    for word in [index, 0, ROOT, 0] {
        body.extend(word.to_ne_bytes());
    }
    attribute(&mut body, KIND, &kind_text);
    if !options.is_empty() {
        attribute(&mut body, OPTIONS, &options);
    }
    request(libc::RTM_NEWQDISC, &body).with_context(|| format!("qdisc {kind} on {device}"))
}

/// `struct tc_netem_qopt` and the latency in nanoseconds.
fn netem(delay_ms: u32, loss_percent: u32) -> Vec<u8> {
    let loss = u32::MAX / 100 * loss_percent.min(100);
    let mut options = Vec::new();
    for word in [0, NETEM_LIMIT, loss, 0, 0, 0] {
        options.extend(u32::to_ne_bytes(word));
    }
    let latency_ns = i64::from(delay_ms) * 1_000_000;
    attribute(&mut options, NETEM_LATENCY64, &latency_ns.to_ne_bytes());
    options
}

/// `struct tc_tbf_qopt` and the burst in bytes.
fn tbf(rate: u32, burst: u32, limit: u32) -> Vec<u8> {
    // struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate; then an empty peak rate.
    let mut parameters = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
    parameters.extend(rate.to_ne_bytes());
    parameters.extend([0; 12]);
    for word in [limit, 0, 0] {
        parameters.extend(word.to_ne_bytes());
    }
    let mut options = Vec::new();
    attribute(&mut options, TBF_PARMS, &parameters);
    attribute(&mut options, TBF_BURST, &burst.to_ne_bytes());
    options
}
