//! The programs, and the hot hooks among their links: attached when they are wanted and taken away again.
//!
//! The kernel takes its time for each (it waits until nothing runs the code that it changes), so that is done in
//! a thread of its own.

use std::{
    sync::mpsc as orders,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData},
    programs::{KProbe, ProgramError, kprobe::KProbeLinkId},
};
use ktls_trace_common::event::Tx;
use tokio::sync::{mpsc, oneshot};

use super::load::{Error, chain, open_map};
use crate::{
    kernel::{capabilities, plan::Hook},
    memory,
};

/// Bytes of a map's value that is only ever removed.
type Opaque<const SIZE: usize> = [u8; SIZE];

/// What became of an order.
#[derive(Clone, Debug)]
pub struct Armed {
    /// Whether the hot hooks were to be attached, or taken away.
    pub wanted: bool,
    /// Those that are attached now.
    pub hooks: Vec<Hook>,
    /// Those that could not be attached, and why.
    pub failed: Vec<(Hook, String)>,
    /// How long it took.
    pub took: Duration,
}

/// What a program has cost so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Its hook.
    pub hook: String,
    /// Times that it ran.
    pub runs: u64,
    /// How long it ran in all.
    pub time: Duration,
}

/// What the thread is to do.
enum Order {
    /// Attach the hot hooks (`true`), or take them away.
    Arm(bool),
    /// Tell what the programs have cost.
    Costs(oneshot::Sender<Vec<Cost>>),
}

/// The thread. Dropping it detaches everything and waits for that.
pub(super) struct Armory {
    /// Orders to it.
    orders: Option<orders::Sender<Order>>,
    /// What became of them.
    done: mpsc::UnboundedReceiver<Armed>,
    /// The thread.
    thread: Option<JoinHandle<()>>,
}

impl Drop for Armory {
    fn drop(&mut self) {
        self.orders = None;
        // It has nothing to say any more; if it panicked the process is about to end anyway.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

impl Armory {
    /// Hands over the programs, with the hot hooks that are to be attached on order.
    pub(super) fn start(mut programs: Ebpf, hot: Vec<Hook>, all: Vec<Hook>) -> Result<Self, Error> {
        let mut memory = Memory {
            sends: open_map(&mut programs, "TX")?,
            pushes: open_map(&mut programs, "PUSHING")?,
        };
        let (orders, orders_taken) = orders::channel();
        let (tell, done) = mpsc::unbounded_channel();
        let work = move || {
            capabilities::keep_only(&capabilities::OF_HOOKS);
            // Verified before they are needed; what is refused is told when it is.
            for &hook in &hot {
                if let Err(error) = load(&mut programs, hook) {
                    tracing::debug!("{hook}: {}", chain(&error));
                }
            }
            memory::give_back();
            let mut links = Vec::new();
            while let Ok(order) = orders_taken.recv() {
                let wanted = match order {
                    Order::Arm(wanted) => wanted,
                    Order::Costs(answer) => {
                        // Whoever asked may have stopped waiting.
                        let _gone = answer.send(costs(&programs, &all));
                        continue;
                    }
                };
                let begun = Instant::now();
                let failed = if wanted {
                    attach_all(&mut programs, &hot, &mut links)
                } else {
                    detach_all(&mut programs, &mut links);
                    memory.forget();
                    Vec::new()
                };
                let armed = Armed {
                    wanted,
                    hooks: links.iter().map(|&(hook, _)| hook).collect(),
                    failed,
                    took: begun.elapsed(),
                };
                if tell.send(armed).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("armory".to_owned())
            .spawn(work)
            .map_err(Error::Thread)?;
        Ok(Self {
            orders: Some(orders),
            done,
            thread: Some(thread),
        })
    }

    /// Orders the hot hooks to be attached, or taken away.
    pub(super) fn order(&self, wanted: bool) {
        self.send(Order::Arm(wanted));
    }

    /// Asks what the programs have cost so far.
    pub(super) fn costs(&self) -> oneshot::Receiver<Vec<Cost>> {
        let (answer, costs) = oneshot::channel();
        self.send(Order::Costs(answer));
        costs
    }

    fn send(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread only ends with this.
            let _ended = orders.send(order);
        }
    }

    /// What became of the next order.
    pub(super) async fn done(&mut self) -> Option<Armed> {
        self.done.recv().await
    }
}

/// Attaches what is not attached yet; what failed.
fn attach_all(
    programs: &mut Ebpf,
    hot: &[Hook],
    links: &mut Vec<(Hook, KProbeLinkId)>,
) -> Vec<(Hook, String)> {
    let mut failed = Vec::new();
    for &hook in hot {
        if links.iter().any(|&(attached, _)| attached == hook) {
            continue;
        }
        match attach(programs, hook) {
            Ok(link) => links.push((hook, link)),
            Err(error) => failed.push((hook, chain(&error))),
        }
    }
    failed
}

/// Takes everything away.
fn detach_all(programs: &mut Ebpf, links: &mut Vec<(Hook, KProbeLinkId)>) {
    for (hook, link) in links.drain(..) {
        let detached = kprobe(programs, hook).and_then(|program| program.detach(link));
        if let Err(error) = detached {
            tracing::warn!("{hook} can't be detached: {error}");
        }
    }
}

/// What the programs of these hooks have cost; nothing if the kernel does not count it.
fn costs(programs: &Ebpf, hooks: &[Hook]) -> Vec<Cost> {
    let cost = |&hook: &Hook| {
        let info = programs.program(hook.program)?.info().ok()?;
        Some(Cost {
            hook: hook.to_string(),
            runs: info.run_count(),
            time: info.run_time(),
        })
    };
    hooks
        .iter()
        .filter_map(cost)
        .filter(|cost| cost.runs > 0)
        .collect()
}

/// Has the kernel verify the program of a hook, unless it did.
fn load(programs: &mut Ebpf, hook: Hook) -> Result<(), ProgramError> {
    match kprobe(programs, hook)?.load() {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

/// Attaches the program of a hook.
pub(super) fn attach(programs: &mut Ebpf, hook: Hook) -> Result<KProbeLinkId, ProgramError> {
    load(programs, hook)?;
    kprobe(programs, hook)?.attach(hook.symbol, 0)
}

/// The program of a hook.
fn kprobe(programs: &mut Ebpf, hook: Hook) -> Result<&mut KProbe, ProgramError> {
    programs
        .program_mut(hook.program)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

/// What the hot hooks remember. It says nothing any more once they have not looked for a while: a record that
/// they did not see being pushed would be told by the flags of an earlier one.
struct Memory {
    /// Of each socket.
    sends: HashMap<MapData, u64, Opaque<{ size_of::<Tx>() }>>,
    /// Of pushes under way.
    pushes: HashMap<MapData, u64, Opaque<16>>,
}

impl Memory {
    /// Forgets it.
    fn forget(&mut self) {
        clear(&mut self.sends);
        clear(&mut self.pushes);
    }
}

/// Removes every entry of a map.
fn clear<V: Pod>(map: &mut HashMap<MapData, u64, V>) {
    let keys: Vec<u64> = map.keys().filter_map(Result::ok).collect();
    for key in keys {
        // Gone already is as good as removed.
        let _gone = map.remove(&key);
    }
}
