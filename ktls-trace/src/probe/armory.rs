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
    Pod,
    maps::{HashMap, MapData},
};
use ktls_trace_common::event::Tx;
use tokio::sync::{mpsc, oneshot};

use super::{
    load::{Error, chain, open_map},
    programs::Programs,
};
use crate::{
    kernel::{capabilities, plan::Hook, symbols::Addresses},
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
    /// Times that it was passed over because the same processor was running it, or another one (`recursion_misses`).
    pub misses: u64,
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
    /// Hands over the programs, with the hot hooks that are to be attached on order, and the addresses that one of them
    /// makes needed: whoever listens must not have to wait for those.
    pub(super) fn start(
        mut programs: Programs,
        hot: Vec<Hook>,
        all: Vec<Hook>,
        addresses: Addresses,
    ) -> Result<Self, Error> {
        let mut memory = Memory {
            sends: open_map(&mut programs.object, "TX")?,
        };
        let (orders, orders_taken) = orders::channel();
        let (tell, done) = mpsc::unbounded_channel();
        let work = move || {
            capabilities::keep_only(&capabilities::OF_HOOKS);
            // Verified before they are needed; what is refused is told when it is.
            for &hook in &hot {
                match programs.load(hook) {
                    Ok(()) => tracing::debug!("{hook}: {}", programs.kind(hook)),
                    Err(error) => tracing::debug!("{hook}: {}", chain(&error)),
                }
            }
            if !hot.is_empty() {
                addresses.get();
            }
            memory::give_back();
            let mut attached = Vec::new();
            while let Ok(order) = orders_taken.recv() {
                let wanted = match order {
                    Order::Arm(wanted) => wanted,
                    Order::Costs(answer) => {
                        // Whoever asked may have stopped waiting.
                        let _gone = answer
                            .send(all.iter().filter_map(|&hook| programs.cost(hook)).collect());
                        continue;
                    }
                };
                let begun = Instant::now();
                let failed = if wanted {
                    attach_all(&mut programs, &hot, &mut attached)
                } else {
                    detach_all(&mut programs, &mut attached);
                    memory.forget();
                    Vec::new()
                };
                let armed = Armed {
                    wanted,
                    hooks: attached.clone(),
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
    programs: &mut Programs,
    hot: &[Hook],
    attached: &mut Vec<Hook>,
) -> Vec<(Hook, String)> {
    let mut failed = Vec::new();
    for &hook in hot {
        if attached.contains(&hook) {
            continue;
        }
        match programs.attach(hook) {
            Ok(()) => attached.push(hook),
            Err(error) => failed.push((hook, chain(&error))),
        }
    }
    failed
}

/// Takes everything away.
fn detach_all(programs: &mut Programs, attached: &mut Vec<Hook>) {
    for hook in attached.drain(..) {
        if let Err(error) = programs.detach(hook) {
            tracing::warn!("{hook} can't be detached: {error}");
        }
    }
}

/// What the hot hooks remember. It says nothing any more once they have not looked for a while: a record that
/// they did not see being pushed would be told by the flags of an earlier one.
struct Memory {
    /// Of each socket.
    sends: HashMap<MapData, u64, Opaque<{ size_of::<Tx>() }>>,
}

impl Memory {
    /// Forgets it.
    fn forget(&mut self) {
        clear(&mut self.sends);
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
