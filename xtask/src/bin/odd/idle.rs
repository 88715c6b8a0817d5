//! A sender that has nothing to send but a small, complete record now and then: a gate that one record could shut, and a socket
//! that is silent most of the time.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    drain::Drain,
    ktls::{self, Gate},
};

/// Payload of a record, in bytes.
const RECORD_BYTES: usize = 100;
/// Between two records.
const SILENCE: Duration = Duration::from_millis(300);

pub(crate) fn run(duration: Duration) -> Result<Value> {
    let mut pair = ktls::pair(Gate::Corked)?;
    let count = Drain::start()?.add(pair.receiver)?;
    let begun = Instant::now();
    let mut records = 0_u64;
    while begun.elapsed() < duration {
        pair.sender
            .write_all(&[0; RECORD_BYTES])
            .context("writing a record")?;
        records += 1;
        thread::sleep(SILENCE);
    }
    Ok(json!({ "records": records, "bytes_received": count.bytes() }))
}
