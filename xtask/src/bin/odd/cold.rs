//! `sendfile` from a file that is not in the page cache: a file system on a loop device, whose pages are dropped before each
//! round. How much the kernel read from the device is the proof.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    fcntl::{PosixFadviseAdvice, posix_fadvise},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};

use crate::{
    Time,
    drain::Drain,
    ktls::{self, Gate},
    payload::Payload,
    two::tell,
};

/// Size of the file, in bytes.
const FILE_BYTES: u64 = 8 << 20;
/// Size of the file system, in bytes.
const DISK_BYTES: u64 = 16 << 20;
/// Where the file system lies and is mounted.
const DISK: &str = "/tmp/odd-cold.ext2";
const MOUNTED: &str = "/tmp/odd-cold";

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    time: Time,
    /// The sender is a corked one
    #[arg(long)]
    corked: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Value> {
    let Arguments { time, corked } = *arguments;
    let path = make_file()?;
    let gate = if corked { Gate::Corked } else { Gate::Stock };
    let pair = ktls::pair(gate)?;
    let count = Drain::start()?.add(pair.receiver)?;
    let rounds = Arc::new(AtomicU64::new(0));
    let before = kib_read()?;
    let counted = Arc::clone(&rounds);
    thread::Builder::new()
        .name("cold".to_owned())
        .spawn(move || {
            tell((|| {
                loop {
                    let file = File::open(&path).context("opening the file")?;
                    forget(&file)?;
                    let mut payload = Payload::of(file, FILE_BYTES);
                    let mut left = FILE_BYTES;
                    while left > 0 {
                        left -= payload.send(&pair.sender, left).context("sendfile")?;
                    }
                    counted.fetch_add(1, Ordering::AcqRel);
                }
            })());
        })
        .context("starting a thread")?;
    thread::sleep(time.duration());

    let bytes_received = count.bytes();
    let read_bytes = 1024 * (kib_read()? - before);
    // Framing makes what was received 0.1 % more than what was read; reading ahead, less.
    if read_bytes < bytes_received / 100 * 95 {
        bail!("{bytes_received} bytes arrived, but only {read_bytes} were read from the device");
    }
    Ok(json!({
        "rounds": rounds.load(Ordering::Acquire),
        "bytes_received": bytes_received,
        "bytes_read_from_device": read_bytes,
    }))
}

/// Mounts a file system with a file in it. Both are gone with this process: the mount is in a namespace of its own, and busybox
/// has the loop device cleared with it.
fn make_file() -> Result<std::path::PathBuf> {
    unshare(CloneFlags::CLONE_NEWNS).context("unsharing the mounts")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount::<str, str, str, str>(None, "/", None, private, None)
        .context("keeping mounts private")?;
    File::create(DISK)
        .and_then(|disk| disk.set_len(DISK_BYTES))
        .with_context(|| format!("making {DISK}"))?;
    fs::create_dir_all(MOUNTED).with_context(|| format!("making {MOUNTED}"))?;
    command(&["modprobe", "loop"])?;
    command(&["mke2fs", "-F", DISK])?;
    command(&["mount", "-t", "ext4", "-o", "loop", DISK, MOUNTED])?;
    let path = Path::new(MOUNTED).join("file");
    let mut file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(64 << 10).collect();
    for _ in 0..FILE_BYTES / pattern.len() as u64 {
        file.write_all(&pattern).context("filling the file")?;
    }
    file.sync_all().context("writing the file to its device")?;
    Ok(path)
}

/// Has the kernel drop the pages of the file.
fn forget(file: &File) -> Result<()> {
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .context("POSIX_FADV_DONTNEED")?;
    fs::write("/proc/sys/vm/drop_caches", "1").context("dropping the page cache")
}

/// What the kernel has read from block devices so far, in KiB.
fn kib_read() -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat").context("reading /proc/vmstat")?;
    text.lines()
        .find_map(|line| line.strip_prefix("pgpgin "))
        .context("/proc/vmstat has no pgpgin")?
        .parse()
        .context("reading pgpgin of /proc/vmstat")
}

fn command(argv: &[&str]) -> Result<()> {
    let line = argv.join(" ");
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .output()
        .with_context(|| format!("starting {line}"))?;
    if !output.status.success() {
        bail!(
            "{line}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
