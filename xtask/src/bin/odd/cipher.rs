//! AES-GCM that answers later: an instance of the template `pcrypt` around what the kernel would take else, before which it stands for
//! whoever asks for "gcm(aes)" from then on, kernel TLS among them. It stays when this process has ended; `rmmod pcrypt` takes it away.

use std::{collections::HashMap, fs, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, AlgAddr, SockFlag, SockType, bind, socket};
use serde_json::{Value, json};

/// What kernel TLS asks for.
const CIPHER: &str = "gcm(aes)";
/// The ciphers that the kernel has.
const CIPHERS: &str = "/proc/crypto";

pub(crate) fn run() -> Result<Value> {
    let plain = preferred()?;
    // By its own name: by what it is asked for, each instance would be one around the one before.
    let name = format!("pcrypt({})", plain.driver);
    let user = socket(
        AddressFamily::Alg,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("a socket of the crypto API")?;
    bind(user.as_raw_fd(), &AlgAddr::new("aead", &name)).with_context(|| name.clone())?;
    let made = preferred()?;
    anyhow::ensure!(
        made.driver == name,
        "the kernel still takes {}",
        made.driver
    );
    Ok(json!({ "driver": made.driver, "priority": made.priority, "before": plain.driver }))
}

/// A cipher that the kernel has.
struct Cipher {
    driver: String,
    priority: u32,
}

/// The one that the kernel takes.
fn preferred() -> Result<Cipher> {
    let ciphers = fs::read_to_string(CIPHERS).with_context(|| format!("reading {CIPHERS}"))?;
    ciphers
        .split("\n\n")
        .filter_map(|cipher| {
            let values: HashMap<&str, &str> = cipher
                .lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(key, value)| (key.trim(), value.trim()))
                .collect();
            let public = values.get("internal") != Some(&"yes");
            (public && values.get("name") == Some(&CIPHER)).then_some(Cipher {
                driver: (*values.get("driver")?).to_owned(),
                priority: values.get("priority")?.parse().ok()?,
            })
        })
        .max_by_key(|cipher| cipher.priority)
        .with_context(|| format!("{CIPHERS} has no {CIPHER}"))
}
