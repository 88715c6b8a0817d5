//! How long a destination may take: its own time, until the run ends.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

/// How long a destination may take to send what it has.
#[derive(Debug)]
pub struct Patience {
    /// When it has to be done, once the run ends.
    pub(super) end: watch::Receiver<Option<Instant>>,
    /// Whether there is no other time.
    pub last: bool,
}

impl Patience {
    /// What a future comes to within a limit, unless the run ends before.
    pub async fn wait<T>(&mut self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = sleep(limit) => None,
            () = self.over() => None,
        }
    }

    /// Waits until it has to be done.
    async fn over(&mut self) {
        loop {
            let end = *self.end.borrow_and_update();
            let over = async {
                match end {
                    Some(end) => sleep_until(end.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(over);
            tokio::select! {
                () = &mut over => return,
                changed = self.end.changed() => if changed.is_err() {
                    // It is told nothing any more, as after a reload.
                    return over.await;
                },
            }
        }
    }
}
