//! Events, snapshots and findings for people; their schema, too.

pub mod confirm;
pub mod html;
pub mod snapshot;
pub mod tables;
pub mod text;

use crate::correlate::event::{Stall, name_of};

/// Who is held back.
fn process(stall: &Stall) -> String {
    let Some(process) = &stall.process else {
        return "process not known".to_owned();
    };
    let comm = process.comm.as_ref().or(process.thread.as_ref());
    format!("{}[{}]", comm.map_or("?", String::as_str), process.pid)
}

/// Both ends of its connection.
fn connection(stall: &Stall) -> String {
    let end = |address: &Option<String>| address.clone().unwrap_or_else(|| "?".to_owned());
    format!("{} -> {}", end(&stall.socket.src), end(&stall.socket.dst))
}

/// The name that something has in events.
fn name(value: &impl serde::Serialize) -> String {
    name_of(value).unwrap_or_else(|| "?".to_owned())
}
