//! `sock_diag` asked once or twice about every kTLS socket: what it does, and its verdict as far as polls can
//! tell. Nothing is loaded into the kernel.
//!
//! [`kernel::namespaces`](crate::kernel::namespaces) finds where to ask, [`rates`] and [`verdict`] compare the two answers, [`owners`](crate::kernel::owners) finds the
//! processes, and [`document`] is what is handed out.

pub mod document;
pub mod rates;
pub mod verdict;

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use caps::Capability;
use document::{NamespaceInfo, Snapshot, SocketReport};
use rates::Rates;

use crate::{
    correlate::event::{ProcessInfo, rfc3339},
    kernel::{
        capabilities, facts, modules,
        namespaces::{self, Entry, Found, Namespace, Which},
        owners::{self, Owners},
    },
    sockdiag::{self, Dump, SockDiag, SocketSample, Wanted},
    watch::{clock, process},
};

/// What a snapshot goes by.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time between the two passes; zero: one pass, and no rates.
    pub interval: Duration,
    /// Look only at sockets with this local or remote port.
    pub port: Option<u16>,
    /// In which network namespaces to ask.
    pub netns: Which,
}

/// Why no snapshot could be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel can't be asked in the namespace asked for, or in the caller's own.
    #[error(transparent)]
    SockDiag(#[from] sockdiag::Error),
    /// The network namespaces can't be listed.
    #[error("list the network namespaces: /proc: {0}")]
    Proc(io::Error),
}

/// Asks and judges. Must be called within a tokio runtime that has I/O and time.
///
/// # Errors
///
/// If the caller's own namespace, or the one that was named, can't be asked about. Other namespaces
/// are listed with the reason.
pub async fn take(options: &Options) -> Result<Snapshot, Error> {
    let Found {
        namespaces,
        hidden_processes,
    } = namespaces::find(&options.netns).map_err(Error::Proc)?;
    let mut places: Vec<Place> = namespaces.into_iter().map(Place::new).collect();
    let started = Instant::now();
    for place in &mut places {
        place.first = match ask(&place.namespace, options.port).await {
            Ok(pass) => Some(pass),
            Err(error) if !place.is_optional() => return Err(error.into()),
            Err(error) => {
                place.error = Some(error.to_string());
                None
            }
        };
    }
    if !options.interval.is_zero() {
        tokio::time::sleep(options.interval.saturating_sub(started.elapsed())).await;
        for place in &mut places {
            if place.first.is_none() {
                continue;
            }
            match ask(&place.namespace, options.port).await {
                Ok(pass) => place.second = Some(pass),
                Err(error) if !place.is_optional() => return Err(error.into()),
                Err(error) => place.error = Some(format!("the second time: {error}")),
            }
        }
    }
    Ok(assemble(places, hidden_processes))
}

/// One network namespace and what it answered.
struct Place {
    /// Where.
    namespace: Namespace,
    /// The first answer; `None` if there is none.
    first: Option<Pass>,
    /// The second.
    second: Option<Pass>,
    /// Why one is missing.
    error: Option<String>,
}

/// One pass over a namespace.
struct Pass {
    /// When it was begun.
    at: Instant,
    /// Its kTLS sockets.
    dump: Dump,
}

impl Place {
    fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            first: None,
            second: None,
            error: None,
        }
    }

    /// Whether the snapshot is worth something without it: it is one of many that were found.
    fn is_optional(&self) -> bool {
        self.namespace.found
    }
}

/// One pass over a namespace. The netlink socket is closed again, so that a host with hundreds of namespaces
/// costs no hundreds of them.
async fn ask(namespace: &Namespace, port: Option<u16>) -> Result<Pass, sockdiag::Error> {
    let mut socket = match &namespace.entry {
        Entry::Own => SockDiag::open()?,
        Entry::Path(path) => SockDiag::open_in(path)?,
    };
    let at = Instant::now();
    let here =
        |sample: &SocketSample| sample.is_ktls() && port.is_none_or(|port| sample.has_port(port));
    let wanted = Wanted {
        takes: &here,
        ..Wanted::ktls()
    };
    let mut dump = socket.dump(wanted).await?;
    // A dump that was interrupted may show a socket twice.
    let mut seen = HashSet::new();
    dump.samples.retain(|sample| seen.insert(sample.cookie));
    Ok(Pass { at, dump })
}

/// Puts together what was found.
fn assemble(places: Vec<Place>, hidden_processes: usize) -> Snapshot {
    let mut sockets: Vec<(Option<u32>, SocketSample, Option<Before>)> = Vec::new();
    let mut namespaces = Vec::new();
    let mut closed_meanwhile = 0;
    let mut interval_ms: Option<f64> = None;
    for place in places {
        let Place {
            namespace,
            first,
            second,
            error,
        } = place;
        let netns = namespace.inode;
        let answered = second.is_some() || first.is_some();
        let interrupted = [&first, &second]
            .into_iter()
            .flatten()
            .any(|pass| pass.dump.interrupted);
        let count_before = sockets.len();
        match (first, second) {
            (Some(first), Some(second)) => {
                let elapsed = second.at.saturating_duration_since(first.at);
                interval_ms.get_or_insert(rates::rounded(elapsed.as_secs_f64() * 1e3, 1e3));
                let mut before: HashMap<u64, SocketSample> = (first.dump.samples.into_iter())
                    .map(|sample| (sample.cookie, sample))
                    .collect();
                for now in second.dump.samples {
                    let before = before.remove(&now.cookie).map(|sample| Before {
                        rates: Rates::between(&sample.tcp, &now.tcp, elapsed),
                        sample,
                    });
                    sockets.push((netns, now, before));
                }
                closed_meanwhile += before.len();
            }
            (Some(only), None) | (None, Some(only)) => {
                sockets.extend((only.dump.samples.into_iter()).map(|now| (netns, now, None)));
            }
            (None, None) => {}
        }
        namespaces.push(NamespaceInfo {
            netns,
            own: namespace.entry == Entry::Own,
            path: namespace.path(),
            process: namespace.pid.map(process_info),
            sockets: answered.then_some(sockets.len() - count_before),
            interrupted,
            error,
        });
    }

    let inodes = (sockets.iter())
        .filter_map(|(_, sample, _)| sample.inode)
        .collect();
    let owners = owners::find(&inodes);
    let mut infos = HashMap::new();
    let mut reports: Vec<SocketReport> = (sockets.iter())
        .map(|(netns, now, before)| {
            let pids = now.inode.map_or(&[][..], |inode| owners.of(inode));
            let processes = (pids.iter())
                .map(|&pid| {
                    infos
                        .entry(pid)
                        .or_insert_with(|| process_info(pid))
                        .clone()
                })
                .collect();
            SocketReport::new(*netns, now, before.as_ref(), processes)
        })
        .collect();
    reports.sort_by_cached_key(SocketReport::sort_key);
    let unseen = Unseen {
        namespaces: &namespaces,
        hidden_processes,
        owners: &owners,
        unowned: (reports.iter())
            .filter(|report| report.socket.inode.is_some() && report.process.is_none())
            .count(),
        no_net_admin: !capabilities::has(Capability::CAP_NET_ADMIN),
    };
    let cannot_see = unseen.lines();
    Snapshot::new(document::Head {
        time: rfc3339(clock::unix_ns()),
        kernel: facts::release(),
        tls_loaded: modules::tls_is_loaded(),
        interval_ms,
        closed_meanwhile,
        cannot_see,
        namespaces,
        sockets: reports,
    })
}

/// The earlier answer about a socket, and what changed since.
#[derive(Clone, Debug)]
pub struct Before {
    /// The answer.
    pub sample: SocketSample,
    /// What changed.
    pub rates: Rates,
}

/// What could not be seen.
struct Unseen<'a> {
    /// The namespaces, with their errors.
    namespaces: &'a [NamespaceInfo],
    /// Processes whose network namespace can't be read.
    hidden_processes: usize,
    /// The owners found, and how many processes kept their files to themselves.
    owners: &'a Owners,
    /// Sockets that have an inode and no known owner.
    unowned: usize,
    /// Whether `CAP_NET_ADMIN` is missing.
    no_net_admin: bool,
}

impl Unseen<'_> {
    /// One line for each.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.no_net_admin {
            lines.push(
                "kTLS sockets may be missing: most kernels show which sockets use TLS only with CAP_NET_ADMIN"
                    .to_owned(),
            );
        }
        let mut failed = self
            .namespaces
            .iter()
            .filter_map(|place| place.error.as_ref());
        if let Some(first) = failed.next() {
            lines.push(match failed.count() {
                0 => format!("1 network namespace: {first}"),
                more => format!("{} network namespaces, the first: {first}", more + 1),
            });
        }
        if self.hidden_processes > 0 {
            lines.push(format!(
                "other network namespaces: no permission to read those of {} (CAP_SYS_PTRACE)",
                processes(self.hidden_processes)
            ));
        }
        if self.unowned > 0 && self.owners.hidden_processes > 0 {
            lines.push(format!(
                "who owns {} of the sockets: no permission to list the open files of {} (CAP_SYS_PTRACE)",
                self.unowned,
                processes(self.owners.hidden_processes)
            ));
        }
        if self.namespaces.iter().any(|place| place.interrupted) {
            lines.push(
                "sockets that came or went while the kernel listed them, each time it was asked"
                    .to_owned(),
            );
        }
        lines
    }
}

fn processes(count: usize) -> String {
    match count {
        1 => "1 process".to_owned(),
        more => format!("{more} processes"),
    }
}

/// What `/proc` tells of a process.
fn process_info(pid: u32) -> ProcessInfo {
    ProcessInfo {
        pid,
        tid: None,
        comm: process::comm(pid),
        thread: None,
        exe: process::exe(pid),
        cgroup: process::cgroup(pid),
    }
}

#[cfg(test)]
mod tests;
