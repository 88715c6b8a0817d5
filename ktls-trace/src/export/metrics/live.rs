//! What is asked for at the moment of a scrape.

use ktls_trace_common::counter;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};
use serde::{Deserialize, Serialize};

use super::tls_stat::{self, TlsStat};
use crate::probe::Cost;

/// How the daemon is, as `/healthz` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Every hook that this kernel can serve is attached or waits for a stall.
    Attached,
    /// Something can't be seen.
    Degraded,
    /// The hooks wait for kernel TLS.
    WaitingForTls,
    /// The part that traces does not answer.
    #[default]
    Stuck,
}

/// What a run says of itself at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// How it is.
    pub health: Health,
    /// What can't be seen, in words.
    pub cannot_see: Vec<String>,
    /// Each hook that is to serve, and whether it is attached now.
    pub hooks: Vec<(String, bool)>,
    /// The programs' counters by slot; `None`: not known.
    pub counters: Vec<Option<u64>>,
    /// Sockets under suspicion.
    pub suspects: u64,
    /// What was lost so far, by place.
    pub lost: Vec<(String, u64)>,
    /// What the programs cost. The kernel counts that only while somebody has it do so.
    pub costs: Vec<Cost>,
}

/// It and the namespaces' counters, for one scrape.
#[derive(Debug)]
pub(super) struct Now {
    /// What the run says.
    pub(super) live: Live,
    /// The counters.
    pub(super) tls_stat: Vec<TlsStat>,
}

/// The programs' counters that are shown, each with its name and what it counts.
const COUNTERS: [(u32, &str, &str); 7] = [
    (
        counter::REFUSED,
        "refused",
        "Writers refused for want of room (sk_stream_wait_memory), software kTLS only",
    ),
    (
        counter::BACK_PRESSURE,
        "back_pressure",
        "... that looked like ordinary back-pressure and were only counted",
    ),
    (
        counter::PERSIST_FIRED,
        "persist_timer_fired",
        "Persist timer fired (tcp_send_probe0)",
    ),
    (
        counter::ZERO_WINDOW_PROBE,
        "zero_window_probes",
        "Zero-window probes sent (tcp_xmit_probe_skb)",
    ),
    (
        counter::RETRANSMIT_TIMEOUT,
        "retransmit_timeouts",
        "Retransmission timer fired (tcp_enter_loss)",
    ),
    (
        counter::RECORDS,
        "records",
        "Complete TLS records handed to TCP while tls_push_sg was hooked",
    ),
    (
        counter::RECORDS_MORE,
        "records_with_msg_more",
        "... of which with MSG_MORE",
    ),
];

/// Where something can be lost. Each is there from the start, so that an increase is seen of the first loss.
const PLACES: [&str; 9] = [
    "ring-buffer",
    "suspects-map",
    "sends-map",
    "sock-diag",
    "output",
    "journal",
    "otlp-traces",
    "otlp-metrics",
    "recording",
];

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self { live, tls_stat } = self;
        let gauge = MetricType::Gauge;
        one(
            &mut encoder,
            "degraded",
            "1 if something can't be seen, see /healthz; not while kernel TLS is not loaded",
            gauge,
            u64::from(matches!(live.health, Health::Degraded | Health::Stuck)),
        )?;
        one(
            &mut encoder,
            "suspects",
            "Sockets under suspicion",
            gauge,
            live.suspects,
        )?;
        for (slot, name, help) in COUNTERS {
            let value = usize::try_from(slot)
                .ok()
                .and_then(|slot| live.counters.get(slot));
            if let Some(value) = value.copied().flatten() {
                one(&mut encoder, name, help, MetricType::Counter, value)?;
            }
        }
        let hooks = live.hooks.iter();
        series(
            &mut encoder,
            "hook_attached",
            "Whether a kernel hook is attached now; those on hot functions are so only during a stall",
            gauge,
            hooks.map(|(hook, attached)| ([("hook", hook.as_str())], u64::from(*attached))),
        )?;
        let lost = live
            .lost
            .iter()
            .map(|(place, count)| (place.as_str(), *count));
        let nothing = |place: &&str| !live.lost.iter().any(|(lost, _)| lost == place);
        let not_lost = PLACES.into_iter().filter(nothing).map(|place| (place, 0));
        series(
            &mut encoder,
            "lost",
            "What was not seen or not written, by where it was lost",
            MetricType::Counter,
            lost.chain(not_lost)
                .map(|(place, count)| ([("place", place)], count)),
        )?;
        costs(&mut encoder, &live.costs)?;
        tls_stat::encode(&mut encoder, tls_stat)
    }
}

/// One number for each set of labels.
pub(super) fn series<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    values: impl Iterator<Item = (L, u64)>,
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        number(family.encode_family(&labels)?, kind, value)?;
    }
    Ok(())
}

/// One number without labels.
fn one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    value: u64,
) -> Result<(), std::fmt::Error> {
    number(
        encoder.encode_descriptor(name, help, None, kind)?,
        kind,
        value,
    )
}

/// A counter or a gauge.
fn number(
    mut metric: MetricEncoder<'_>,
    kind: MetricType,
    value: u64,
) -> Result<(), std::fmt::Error> {
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        _ => metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
    }
}

fn costs(encoder: &mut DescriptorEncoder<'_>, costs: &[Cost]) -> Result<(), std::fmt::Error> {
    if costs.is_empty() {
        return Ok(());
    }
    series(
        encoder,
        "program_misses",
        "Times that the program of a hook was passed over because the same processor was running it, or another one",
        MetricType::Counter,
        costs
            .iter()
            .map(|cost| ([("hook", cost.hook.as_str())], cost.misses)),
    )?;
    // Counted only if somebody has asked the kernel to.
    let counted = || costs.iter().filter(|cost| cost.runs > 0);
    if counted().next().is_none() {
        return Ok(());
    }
    series(
        encoder,
        "program_runs",
        "Times that the program of a hook ran (sysctl kernel.bpf_stats_enabled)",
        MetricType::Counter,
        counted().map(|cost| ([("hook", cost.hook.as_str())], cost.runs)),
    )?;
    let mut family = encoder.encode_descriptor(
        "program_run_seconds",
        "How long it ran (sysctl kernel.bpf_stats_enabled)",
        None,
        MetricType::Counter,
    )?;
    for Cost { hook, time, .. } in counted() {
        let labels = [("hook", hook.as_str())];
        let mut metric = family.encode_family(&labels)?;
        metric.encode_counter::<NoLabelSet, f64, f64>(&time.as_secs_f64(), None)?;
    }
    Ok(())
}
