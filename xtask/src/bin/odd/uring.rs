//! Sends through `io_uring`: splices from a file through a pipe, and plain sends, each with and without the flag that promises
//! more. The kernel does a splice in a worker thread of the process (`iou-wrk-…`) and arms a poll for a refused send.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, OwnedFd},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use io_uring::{IoUring, opcode, squeue, types::Fd};
use nix::{errno::Errno, fcntl::OFlag, unistd::pipe2};
use serde_json::json;

use crate::{
    Outcome, Time,
    drain::Drain,
    ktls::{self, Gate},
    payload::Payload,
    two::tell,
};

/// Bytes of one splice or send: four records, and what a pipe holds.
const CHUNK_BYTES: u32 = 64 << 10;
/// Bytes of the file, a multiple of the chunk.
const FILE_CHUNKS: u64 = 64;

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    time: Time,
    /// Operation
    #[arg(long, value_enum)]
    operation: Operation,
    /// `SPLICE_F_MORE` or `MSG_MORE`
    #[arg(long)]
    more: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Operation {
    /// `IORING_OP_SPLICE`, file to pipe and pipe to socket
    Splice,
    /// `IORING_OP_SEND` from memory
    Send,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let Arguments {
        time,
        operation,
        more,
    } = *arguments;
    let ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) if refused(&error) => {
            return Ok(Outcome::Unsupported(format!("io_uring_setup: {error}")));
        }
        Err(error) => return Err(error).context("making an io_uring"),
    };
    let payload = Payload::new()?;
    let pair = ktls::pair(Gate::Corked)?;
    let count = Drain::start()?.add(pair.receiver)?;
    let ring = Ring(ring);
    let sender = pair.sender;
    thread::Builder::new()
        .name("uring".to_owned())
        .spawn(move || {
            tell(match operation {
                Operation::Splice => ring.splice_forever(&payload, &sender, more),
                Operation::Send => ring.send_forever(&sender, more),
            });
        })
        .context("starting a thread")?;
    thread::sleep(time.duration());
    Ok(Outcome::Ran(json!({ "bytes_received": count.bytes() })))
}

/// Whether the kernel has no `io_uring`, or it is switched off (`kernel.io_uring_disabled`).
fn refused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOSYS | Errno::EPERM)
    )
}

/// A ring with one operation at a time.
struct Ring(IoUring);

impl Ring {
    fn splice_forever(mut self, payload: &Payload, sender: &TcpStream, more: bool) -> Result<()> {
        let (from_pipe, to_pipe): (OwnedFd, OwnedFd) =
            pipe2(OFlag::O_CLOEXEC).context("making a pipe")?;
        let flags = if more { libc::SPLICE_F_MORE } else { 0 };
        for chunk in (0..FILE_CHUNKS).cycle() {
            let offset = chunk * u64::from(CHUNK_BYTES);
            let fill = opcode::Splice::new(
                Fd(payload.file().as_raw_fd()),
                i64::try_from(offset).context("an offset past the range of loff_t")?,
                Fd(to_pipe.as_raw_fd()),
                -1,
                CHUNK_BYTES,
            )
            .build();
            // SAFETY: the descriptors are open until the operation is done, and no memory is involved.
            let mut filled = unsafe { self.run(&fill) }.context("splice to the pipe")?;
            while filled > 0 {
                let send = opcode::Splice::new(
                    Fd(from_pipe.as_raw_fd()),
                    -1,
                    Fd(sender.as_raw_fd()),
                    -1,
                    filled,
                )
                .flags(flags)
                .build();
                // SAFETY: as above.
                filled -= unsafe { self.run(&send) }.context("splice to the socket")?;
            }
        }
        Ok(())
    }

    fn send_forever(mut self, sender: &TcpStream, more: bool) -> Result<()> {
        let bytes = vec![0_u8; CHUNK_BYTES as usize];
        let flags = if more { libc::MSG_MORE } else { 0 };
        loop {
            let send = opcode::Send::new(Fd(sender.as_raw_fd()), bytes.as_ptr(), CHUNK_BYTES)
                .flags(flags)
                .build();
            // SAFETY: the descriptor is open and `bytes` has that many bytes until the operation is done.
            unsafe { self.run(&send) }.context("send")?;
        }
    }

    /// Does one operation and waits for its end; the bytes it moved.
    ///
    /// # Safety
    ///
    /// What the operation names must be valid until this returns.
    unsafe fn run(&mut self, operation: &squeue::Entry) -> Result<u32> {
        // SAFETY: the caller keeps it valid, and we don't return before it is done.
        unsafe { self.0.submission().push(operation) }.context("queueing an operation")?;
        loop {
            match self.0.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("io_uring_enter"),
            }
            if let Some(done) = self.0.completion().next() {
                return match u32::try_from(done.result()) {
                    Ok(0) => bail!("nothing was moved"),
                    Ok(bytes) => Ok(bytes),
                    Err(_negative) => Err(Errno::from_raw(done.result().saturating_neg()).into()),
                };
            }
        }
    }
}
