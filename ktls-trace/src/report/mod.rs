//! Events, snapshots and findings for people; their schema, too.

pub mod confirm;
pub mod html;
pub mod snapshot;
pub mod tables;
pub mod text;

use crate::correlate::event::name_of;

/// The name that something has in events.
fn name(value: &impl serde::Serialize) -> String {
    name_of(value).unwrap_or_else(|| "?".to_owned())
}
