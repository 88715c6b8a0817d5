//! A running guest: its frames as they come, and why it ended.

use std::{
    fmt,
    io::{BufReader, Read as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::{prctl, signal::Signal};
use xtask::frame::Frame;

use super::{Console, Machine};
use crate::kernel::Kernel;

/// How often the console is looked at.
const CONSOLE_POLL: Duration = Duration::from_millis(50);
/// How long a dying kernel may go on printing.
const LAST_WORDS: Duration = Duration::from_millis(700);
/// How long QEMU may take to end once it has closed the port.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// Console lines shown of a guest that died.
const TAIL_LINES: usize = 40;

/// Why no more frames come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The job has ended with this status.
    Exit(i32),
    /// The kernel or QEMU gave up.
    Died {
        /// The line that says so, or what QEMU said.
        reason: String,
        /// End of the console.
        console: String,
    },
    /// The time limit passed.
    TimedOut {
        /// The limit.
        limit: Duration,
        /// End of the console.
        console: String,
    },
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(formatter, "the job ended with status {code}"),
            Self::Died { reason, console } => {
                write!(
                    formatter,
                    "the guest died: {reason}\n--- end of its console ---\n{console}"
                )
            }
            Self::TimedOut { limit, console } => write!(
                formatter,
                "time limit of {} s passed\n--- end of the guest's console ---\n{console}",
                limit.as_secs()
            ),
        }
    }
}

/// A guest under QEMU; killed when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    qemu: Child,
    /// Held open for the guest's life: see [`Machine::command`].
    _stdin: Option<ChildStdin>,
    frames: Receiver<Frame>,
    console: Console,
    /// When the job's time is up, and how long it was.
    deadline: Option<(Instant, Duration)>,
}

impl Guest {
    /// Starts QEMU.
    pub(crate) fn boot(
        machine: Machine,
        kernel: &Kernel,
        initramfs: &Path,
        console: &Path,
    ) -> Result<Self> {
        let console_file = Console::create(console)?;
        let mut command = machine.command(kernel, initramfs, console);
        // SAFETY: prctl(2) is a plain system call, allowed between fork and exec; nothing is allocated.
        unsafe {
            command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        let mut qemu = command
            .spawn()
            .context("starting qemu-system-x86_64 (`cargo xtask setup` installs it)")?;
        let stdin = qemu.stdin.take();
        let mut stdout = BufReader::new(qemu.stdout.take().context("QEMU has no stdout")?);
        let (sender, frames) = mpsc::channel();
        thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::read_from(&mut stdout) {
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            qemu,
            _stdin: stdin,
            frames,
            console: console_file,
            deadline: None,
        })
    }

    /// From now on the guest has `limit` to end.
    pub(crate) fn limit(&mut self, limit: Duration) {
        self.deadline = Some((Instant::now() + limit, limit));
    }

    /// Its console.
    pub(crate) fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// The next frame, or why there is none.
    pub(crate) fn next(&mut self) -> Result<Result<Frame, Ending>> {
        loop {
            match self.frames.recv_timeout(CONSOLE_POLL) {
                Ok(Frame::Exit(code)) => return Ok(Err(Ending::Exit(code))),
                Ok(frame) => return Ok(Ok(frame)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.ended().map(Err),
            }
            if let Some(reason) = self.console.poll()? {
                // Let it print its stack first. It may have restarted, and so ended, before that.
                thread::sleep(LAST_WORDS);
                return Ok(Err(Ending::Died {
                    reason,
                    console: self.console.tail(TAIL_LINES)?,
                }));
            }
            if let Some((deadline, limit)) = self.deadline
                && Instant::now() > deadline
            {
                return Ok(Err(Ending::TimedOut {
                    limit,
                    console: self.console.tail(TAIL_LINES)?,
                }));
            }
        }
    }

    /// QEMU has closed the port without an exit status before it.
    fn ended(&mut self) -> Result<Ending> {
        let fatal = self.console.poll()?;
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.qemu.try_wait().context("looking at QEMU")?.is_none() {
            if Instant::now() > deadline {
                self.qemu.kill().context("ending QEMU")?;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let status = self.qemu.wait().context("waiting for QEMU")?;
        let mut said = String::new();
        if let Some(mut stderr) = self.qemu.stderr.take() {
            stderr
                .read_to_string(&mut said)
                .context("reading what QEMU said")?;
        }
        let reason = fatal.unwrap_or_else(|| match said.trim() {
            "" => format!("QEMU ended ({status}) before the job did"),
            said => format!("QEMU ended ({status}): {said}"),
        });
        Ok(Ending::Died {
            reason,
            console: self.console.tail(TAIL_LINES)?,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nothing is left to be done about a failure here, and the kernel kills QEMU when we end.
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}
