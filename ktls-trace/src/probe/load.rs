//! Loading and attaching. Everything is held by file descriptors of this process, nothing is pinned:
//! whatever ends the process, the kernel takes the programs away.

use std::{io, os::fd::AsRawFd};

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use aya_log::EbpfLogger;
use aya_obj::generated::bpf_prog_info;
use ktls_trace_common::{counter, event::Suspect, filter::Filter, layout::Layout};
use log::Log;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};

use super::{
    armory::{Armed, Armory, Cost},
    programs::Programs,
};
use crate::kernel::{
    plan::{Hook, Probes},
    symbols::Addresses,
};

/// The programs, built by `build.rs`.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ktls-trace"));

/// Name of the map of globals that the user side changes.
const DATA: &str = ".data";
/// Name of the map of globals that the programs change, too.
const BSS: &str = ".bss";

/// Why the programs could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the maps or the object as a whole.
    #[error("cannot load the eBPF programs: {}", chain(.0))]
    Load(#[from] Box<EbpfError>),
    /// A map is not what the object promised.
    #[error("eBPF map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// What went wrong.
        source: MapError,
    },
    /// The object has no such map.
    #[error("the eBPF object has no map {0}")]
    NoMap(&'static str),
    /// The ring buffer can't be waited for.
    #[error("cannot wait for the ring buffer: {0}")]
    Wait(io::Error),
    /// The thread that attaches hooks can't be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// Not one hook could be attached.
    #[error("no hook could be attached; the first failure: {0}")]
    NothingAttached(String),
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What the programs are loaded with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where things lie in this kernel.
    pub layout: Layout,
    /// What to look at.
    pub filter: Filter,
    /// Which hooks are attached, and when.
    pub probes: Probes,
    /// Whether the programs' own diagnostics are wanted.
    pub log: bool,
}

/// What became of the hooks.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    /// Hooks that are attached.
    pub hooks: Vec<Hook>,
    /// Hooks that are not, and why.
    pub failed: Vec<(Hook, String)>,
}

/// The programs at work. Dropping it detaches everything.
pub struct Probe {
    /// Keeps programs and links alive, and attaches the hot hooks on order.
    armory: Armory,
    /// Events on their way to the user side.
    pub ring: AsyncFd<RingBuf<MapData>>,
    /// Whether the ring can't be waited for; then it has to be looked at from time to time.
    pub deaf: bool,
    /// The programs' counters.
    counters: PerCpuArray<MapData, u64>,
    /// What they look at: the section of their one global that changes.
    filter: Array<MapData, Filter>,
    /// Sockets under suspicion.
    pub suspects: Suspects,
    /// The programs' own diagnostics, if wanted.
    pub log: Option<AsyncFd<EbpfLogger<&'static dyn Log>>>,
}

/// Something to do about the programs.
#[derive(Debug)]
pub enum Stir {
    /// The ring buffer has something to read.
    Records,
    /// An order was carried out.
    Armed(Armed),
    /// It can't be waited for any more.
    Trouble(String),
}

/// The kernel's table of sockets under suspicion, from which the user side takes them out.
pub struct Suspects {
    /// The table.
    table: HashMap<MapData, u64, Suspect>,
    /// The section of the programs' global that says whether there may be any.
    any: Array<MapData, u32>,
}

impl Suspects {
    /// Clears a socket, unless its address belongs to another one by now.
    pub fn clear(&mut self, sk: u64, generation: u64) {
        if self
            .table
            .get(&sk, 0)
            .is_ok_and(|suspect| suspect.generation == generation)
        {
            // If it is gone already, that is what was wanted.
            let _gone = self.table.remove(&sk);
            self.note_if_empty();
        }
    }

    /// Says so to the programs if there is no suspect left. If that fails they look for one in vain, which costs time only.
    fn note_if_empty(&mut self) {
        if self.table.keys().next().is_none() {
            let _noted = self.any.set(0, 0, 0);
            // One may have come under suspicion in between.
            if self.table.keys().next().is_some() {
                let _noted = self.any.set(0, 1, 0);
            }
        }
    }
}

impl Probe {
    /// Loads the programs of these hooks and attaches them. A hook that fails is reported in
    /// [`Attached::failed`] and costs only its own observation. `addresses` are read before a hook that needs them.
    ///
    /// # Errors
    ///
    /// If nothing could be loaded or attached at all.
    pub fn load(
        hooks: &[Hook],
        options: &Options,
        addresses: Addresses,
    ) -> Result<(Self, Attached), Error> {
        let waits = |hook: &Hook| hook.hot && options.probes != Probes::Full;
        let (mut later, now): (Vec<_>, Vec<_>) = hooks.iter().copied().partition(waits);
        if options.probes != Probes::Auto {
            later.clear();
        }
        let used = [now.as_slice(), &later].concat();
        let mut programs = Programs::new(OBJECT, load_object(options)?, &used);
        let object = &mut programs.object;
        let log = if options.log { logger(object) } else { None };

        if now.iter().any(|hook| hook.hot) {
            addresses.get();
        }
        let mut attached = Attached::default();
        for hook in now {
            match programs.attach(hook) {
                Ok(()) => {
                    tracing::debug!("{hook}: {}", programs.kind(hook));
                    attached.hooks.push(hook);
                }
                Err(error) => attached.failed.push((hook, chain(&error))),
            }
        }
        if attached.hooks.is_empty()
            && let Some((hook, error)) = attached.failed.first()
        {
            return Err(Error::NothingAttached(format!("{}: {error}", hook.symbol)));
        }

        let object = &mut programs.object;
        let ring = RingBuf::try_from(take(object, "EVENTS")?).map_err(|source| Error::Map {
            name: "EVENTS",
            source,
        })?;
        let ring = readable(ring).map_err(Error::Wait)?;
        let counters =
            PerCpuArray::try_from(take(object, "COUNTERS")?).map_err(|source| Error::Map {
                name: "COUNTERS",
                source,
            })?;
        let suspects = open_map(object, "SUSPECTS")?;
        let any = Array::try_from(take(object, BSS)?)
            .map_err(|source| Error::Map { name: BSS, source })?;
        let filter = Array::try_from(take(object, DATA)?)
            .map_err(|source| Error::Map { name: DATA, source })?;
        let probe = Self {
            armory: Armory::start(programs, later, used, addresses)?,
            ring,
            deaf: false,
            counters,
            filter,
            suspects: Suspects {
                table: suspects,
                any,
            },
            log,
        };
        Ok((probe, attached))
    }

    /// Orders the hot hooks to be attached, or taken away again; [`Probe::stirs`] says when that is done.
    pub fn arm(&self, wanted: bool) {
        self.armory.order(wanted);
    }

    /// Has the programs look at something else.
    ///
    /// # Errors
    ///
    /// If the kernel does not take it.
    pub fn look_at(&mut self, filter: Filter) -> Result<(), Error> {
        let set = self.filter.set(0, filter, 0);
        set.map_err(|source| Error::Map { name: DATA, source })
    }

    /// Asks what the programs have cost so far; the answer may have to wait for an order that is being carried out.
    pub fn costs(&self) -> oneshot::Receiver<Vec<Cost>> {
        self.armory.costs()
    }

    /// Waits until there is something to do.
    pub async fn stirs(&mut self) -> Stir {
        tokio::select! {
            Some(armed) = self.armory.done() => Stir::Armed(armed),
            ready = self.ring.readable(), if !self.deaf => match ready {
                Ok(mut guard) => {
                    // Cleared before the ring is read, so that what comes meanwhile wakes again.
                    guard.clear_ready();
                    Stir::Records
                }
                Err(error) => {
                    self.deaf = true;
                    let why = format!("the ring buffer can't be waited for, it is looked at once a second: {error}");
                    Stir::Trouble(why)
                }
            },
        }
    }

    /// The value of a counter, over all CPUs.
    ///
    /// # Errors
    ///
    /// If the kernel does not give it.
    pub fn counter(&self, slot: u32) -> Result<u64, Error> {
        let values = self.counters.get(&slot, 0).map_err(|source| Error::Map {
            name: "COUNTERS",
            source,
        })?;
        Ok(values.iter().sum())
    }

    /// Events that were lost so far, and where.
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        [
            ("ring-buffer", counter::LOST_RING),
            ("suspects-map", counter::LOST_SUSPECT),
            ("sends-map", counter::LOST_SEND),
        ]
        .into_iter()
        .filter_map(|(place, slot)| Some((place, self.counter(slot).ok()?)))
        .collect()
    }
}

/// Makes the maps and gives the programs their layout and filter; none is with the kernel yet.
fn load_object(options: &Options) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    // It has parsed the kernel's BTF, for relocations that Rust programs don't carry: dropped at once, that makes room
    // for what follows.
    loader.btf(None);
    loader.override_global("LAYOUT", &options.layout, true);
    loader.override_global("FILTER", &options.filter, true);
    let log_level = if options.log {
        aya_log::Level::Trace as u8
    } else {
        0
    };
    loader.override_global(aya_log::LEVEL, &log_level, false);
    Ok(loader.load(OBJECT).map_err(Box::new)?)
}

/// What the kernel's verifier says of a program.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Verified {
    /// The program.
    pub program: String,
    /// Instructions that the verifier went through; `None`: not accepted, or not told (before 5.16).
    pub instructions: Option<u32>,
    /// Why it is not accepted.
    pub error: Option<String>,
}

impl Verified {
    /// Of a program that was accepted, of which the kernel then said this, or was not.
    pub(super) fn of(program: String, info: Result<bpf_prog_info, String>) -> Self {
        let accepted = info.as_ref().ok().map(|info| info.verified_insns);
        Self {
            program,
            instructions: accepted.filter(|&count| count > 0),
            error: info.err(),
        }
    }
}

/// Has the kernel verify every program, those included that the plan does not use here. Nothing is
/// attached, and nothing stays.
///
/// # Errors
///
/// If the object as a whole is refused.
pub fn verify(layout: Layout, hooks: &[Hook]) -> Result<Vec<Verified>, Error> {
    let options = Options {
        layout,
        filter: Filter::default(),
        probes: Probes::Full,
        log: false,
    };
    Ok(Programs::new(OBJECT, load_object(&options)?, hooks).verify(hooks))
}

/// Waits for something to read in a ring buffer.
fn readable<T: AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers own their map's descriptor and keep it open and the same until
    // they are dropped.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

/// Takes a map out of the object.
fn take(programs: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    programs.take_map(name).ok_or(Error::NoMap(name))
}

/// Takes a map that is keyed by a number out of the object.
pub(super) fn open_map<V: Pod>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, u64, V>, Error> {
    HashMap::try_from(take(programs, name)?).map_err(|source| Error::Map { name, source })
}

/// The reader of the programs' own diagnostics; going without is no reason to stop.
fn logger(programs: &mut Ebpf) -> Option<AsyncFd<EbpfLogger<&'static dyn Log>>> {
    let logger = EbpfLogger::init(programs)
        .map_err(|error| error.to_string())
        .and_then(|logger| readable(logger).map_err(|error| error.to_string()));
    match logger {
        Ok(logger) => Some(logger),
        Err(error) => {
            tracing::warn!("the programs' own diagnostics are not available: {error}");
            None
        }
    }
}
