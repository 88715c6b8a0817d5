//! `/proc/net/tls_stat` of a network namespace (`net/tls/tls_proc.c`), as metrics.

use std::{fs, path::PathBuf};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use super::live::series;
use crate::kernel::namespaces::{Entry, Namespace, Which, find};

/// Namespaces that are shown at most: each is a series of its own for every counter.
const MOST_NAMESPACES: usize = 256;

/// The counters of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsStat {
    /// Inode number of the namespace.
    pub(super) netns: u32,
    /// Name and value, as the kernel prints them.
    pub(super) counters: Vec<(String, u64)>,
}

/// Reads those of the namespaces that are watched. Without the `tls` module there are none.
///
/// A namespace that only a file keeps alive has no process through which it could be read; it is left out.
pub(super) fn read_all(which: &Which) -> Vec<TlsStat> {
    let Ok(found) = find(which) else {
        return Vec::new();
    };
    found
        .namespaces
        .iter()
        .filter_map(read)
        .take(MOST_NAMESPACES)
        .collect()
}

fn read(namespace: &Namespace) -> Option<TlsStat> {
    let netns = namespace.inode?;
    let path = match (&namespace.entry, namespace.pid) {
        (Entry::Own, _) => PathBuf::from("/proc/self/net/tls_stat"),
        (_, Some(pid)) => PathBuf::from(format!("/proc/{pid}/net/tls_stat")),
        (Entry::Path(path), None) => path.to_str()?.strip_suffix("/ns/net")?.parse().ok()?,
    };
    let text = fs::read_to_string(path).ok()?;
    Some(TlsStat {
        netns,
        counters: parse(&text),
    })
}

/// Lines of a name and a number.
fn parse(text: &str) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Writes them. What the kernel calls `TlsCurr…` goes up and down, everything else only up.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[TlsStat],
) -> Result<(), std::fmt::Error> {
    let (current, total): (Vec<_>, Vec<_>) = all
        .iter()
        .flat_map(|stat| stat.counters.iter().map(|counter| (stat.netns, counter)))
        .map(|(netns, (name, value))| {
            let labels = [("netns", netns.to_string()), ("counter", name.clone())];
            (labels, *value)
        })
        .partition(|([_, (_, name)], _)| name.starts_with("TlsCurr"));
    series(
        encoder,
        "tls_stat_current",
        "TlsCurr... of /proc/net/tls_stat: kernel TLS sockets now, by direction and offload",
        MetricType::Gauge,
        current.into_iter(),
    )?;
    series(
        encoder,
        "tls_stat",
        "The other counters of /proc/net/tls_stat, by the kernel's names",
        MetricType::Counter,
        total.into_iter(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_prints_is_read() {
        let text =
            "TlsCurrTxSw                     \t3\nTlsDecryptError                 \t0\nodd\n";
        let expected = [
            ("TlsCurrTxSw".to_owned(), 3),
            ("TlsDecryptError".to_owned(), 0),
        ];
        assert_eq!(parse(text), expected);
    }
}
