//! What a service manager wants to know of a run (`sd_notify(3)`): that it is ready, how it is, that it is alive.

use std::env;

use libsystemd::daemon::{self, NotifyState};

use super::clock;

/// The service manager.
#[derive(Debug)]
pub(super) struct Manager {
    /// Whether it wants to hear that the run is alive.
    watchdog: bool,
    /// The status that was told last.
    status: String,
}

impl Manager {
    /// Looks for it (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    pub(super) fn find() -> Option<Self> {
        env::var_os("NOTIFY_SOCKET")?;
        Some(Self {
            watchdog: daemon::watchdog_enabled(false).is_some(),
            status: String::new(),
        })
    }

    /// The run observes.
    pub(super) fn ready(&mut self, status: &str) {
        status.clone_into(&mut self.status);
        tell(&[NotifyState::Ready, NotifyState::Status(status.to_owned())]);
    }

    /// The run reads its options again; [`Manager::ready`] says when that is done.
    pub(super) fn reloading() {
        // Whoever asked for it wants to know since when (`Type=notify-reload`).
        let since = format!("MONOTONIC_USEC={}", clock::monotonic_ns() / 1000);
        tell(&[NotifyState::Reloading, NotifyState::Other(since)]);
    }

    /// The run is alive, and this is how it is.
    pub(super) fn alive(&mut self, status: &str) {
        if self.watchdog {
            tell(&[NotifyState::Watchdog]);
        }
        if status != self.status {
            status.clone_into(&mut self.status);
            tell(&[NotifyState::Status(status.to_owned())]);
        }
    }

    /// The run ends; it gives no more signs of life.
    pub(super) fn stopping(&mut self) {
        self.watchdog = false;
        tell(&[NotifyState::Stopping]);
    }
}

/// Says it.
fn tell(states: &[NotifyState]) {
    if let Err(error) = daemon::notify(false, states) {
        tracing::debug!("the service manager can't be told: {error}");
    }
}
