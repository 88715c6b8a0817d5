//! Corked sockets of several threads or forked processes, each with a socket of its own, and one socket that two of them share.

use std::{ffi::CString, net::TcpStream, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    child::Child,
    drain::{Count, Drain},
    ktls::{Connector, Gate, Pair},
    payload::Payload,
    two::tell,
};

/// Who sends on which of the sockets.
const SENDERS: &[(&str, usize)] = &[
    ("sender-0", 0),
    ("sender-1", 1),
    ("sender-2", 2),
    ("sharer-a", 3),
    ("sharer-b", 3),
];
/// The sockets above.
const SOCKETS: usize = 4;

/// Each sender is a child, which inherits its socket.
pub(crate) fn forked(duration: Duration) -> Result<Value> {
    let payload = Payload::new()?;
    let (senders, receivers) = connect()?;
    let mut children = Vec::new();
    for (name, socket) in SENDERS {
        let name = CString::new(*name).context("a name with a NUL")?;
        children.push(Child::start(&name, || {
            payload.again()?.send_forever(&senders[*socket])
        })?);
    }
    drop(senders);
    let counts = watch(receivers, duration)?;
    let pids: Vec<i32> = children.iter().map(|child| child.pid().as_raw()).collect();
    Ok(report(&counts, &json!({ "pids": pids })))
}

/// Each sender is a thread.
pub(crate) fn threads(duration: Duration) -> Result<Value> {
    let payload = Payload::new()?;
    let (senders, receivers) = connect()?;
    let senders: Vec<Arc<TcpStream>> = senders.into_iter().map(Arc::new).collect();
    for (name, socket) in SENDERS {
        let file = payload.again()?;
        let sender = Arc::clone(&senders[*socket]);
        thread::Builder::new()
            .name((*name).to_owned())
            .spawn(move || tell(file.send_forever(&sender)))
            .context("starting a thread")?;
    }
    let counts = watch(receivers, duration)?;
    Ok(report(&counts, &json!({})))
}

fn connect() -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let connector = Connector::new(Gate::Corked)?;
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for _ in 0..SOCKETS {
        let Pair { sender, receiver } = connector.pair()?;
        senders.push(sender);
        receivers.push(receiver);
    }
    Ok((senders, receivers))
}

fn watch(receivers: Vec<TcpStream>, duration: Duration) -> Result<Vec<Count>> {
    let drain = Drain::start()?;
    let counts = receivers
        .into_iter()
        .map(|receiver| drain.add(receiver))
        .collect::<Result<_>>()?;
    thread::sleep(duration);
    Ok(counts)
}

fn report(counts: &[Count], more: &Value) -> Value {
    let bytes: Vec<u64> = counts.iter().map(Count::bytes).collect();
    let total: u64 = bytes.iter().sum();
    json!({ "bytes_received": total, "each_bytes_received": bytes, "more": more })
}
