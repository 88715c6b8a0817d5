//! A child process whose output is kept and shown at the same time.

use std::{
    io::Read,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Bytes kept of one stream. The rest is only shown.
const KEPT_BYTES: usize = 8 * 1024 * 1024;
/// How often a child is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(5);
/// How long output may trail behind the end of its process, when something else holds the pipe open.
const TRAILING: Duration = Duration::from_millis(500);

/// Which of a child's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes output as it comes.
pub type Sink = Arc<dyn Fn(Stream, &[u8]) + Send + Sync>;

/// What a process left behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Status as a shell reports it, 128 and more for a signal; `None` if it had to be killed.
    pub exit: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// From start to end.
    pub seconds: f64,
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Captured {
    child: Child,
    started: Instant,
    /// When it was first seen to have ended, and how.
    ended: Option<(Instant, ExitStatus)>,
    stdout: Pump,
    stderr: Pump,
}

impl Captured {
    /// Starts `command` with its output going to `sink` and into memory.
    ///
    /// # Errors
    ///
    /// If the program can't be started.
    pub fn start(command: &mut Command, sink: &Sink) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let stdout = child.stdout.take().context("the child has no stdout")?;
        let stderr = child.stderr.take().context("the child has no stderr")?;
        Ok(Self {
            child,
            started: Instant::now(),
            ended: None,
            stdout: Pump::start(stdout, Stream::Stdout, Arc::clone(sink)),
            stderr: Pump::start(stderr, Stream::Stderr, Arc::clone(sink)),
        })
    }

    /// Whether it has ended.
    ///
    /// # Errors
    ///
    /// If its state can't be read.
    pub fn has_ended(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            let status = self.child.try_wait().context("looking at a child")?;
            self.ended = status.map(|status| (Instant::now(), status));
        }
        Ok(self.ended.is_some())
    }

    /// Waits until it has ended or `limit` has passed; whether it has ended.
    ///
    /// # Errors
    ///
    /// If its state can't be read.
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while !self.has_ended()? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
        Ok(true)
    }

    /// Waits for a line with `word` on its standard error; `false` if it ends or `limit` passes before that.
    ///
    /// # Errors
    ///
    /// If its state can't be read.
    pub fn wait_for_stderr(&mut self, word: &str, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            // Looked at before the text, so that the last words of a process that ends are not missed.
            let over = self.has_ended()? || Instant::now() > deadline;
            if over {
                thread::sleep(POLL * 4);
            }
            if self.stderr.text().contains(word) {
                return Ok(true);
            }
            if over {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
    }

    /// Asks it to end.
    ///
    /// # Errors
    ///
    /// If it can't be signalled.
    pub fn terminate(&mut self) -> Result<()> {
        if self.has_ended()? {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).context("a process id past the range of pid_t")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("sending SIGTERM")
    }

    /// Its status and output; a process still running is killed first.
    ///
    /// # Errors
    ///
    /// If it can't be killed or waited for.
    pub fn finish(mut self) -> Result<Ended> {
        let ended_by_itself = self.has_ended()?;
        if !ended_by_itself {
            self.child.kill().context("killing a child")?;
            let status = self.child.wait().context("waiting for a child")?;
            self.ended = Some((Instant::now(), status));
        }
        let deadline = Instant::now() + TRAILING;
        while !(self.stdout.is_finished() && self.stderr.is_finished()) && Instant::now() < deadline
        {
            thread::sleep(POLL);
        }
        let (end, status) = self.ended.context("a child that has ended")?;
        Ok(Ended {
            exit: ended_by_itself.then(|| exit_code(status)),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            seconds: end.duration_since(self.started).as_secs_f64(),
        })
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // It is gone already or can't be helped.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The status as a shell would report it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(125)
}

/// A thread that reads one stream to its end.
#[derive(Debug)]
struct Pump {
    kept: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Pump {
    fn start(mut source: impl Read + Send + 'static, stream: Stream, sink: Sink) -> Self {
        let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
        let shared = Arc::clone(&kept);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 32 * 1024];
            while let Ok(length @ 1..) = source.read(&mut buffer) {
                let bytes = &buffer[..length];
                sink(stream, bytes);
                let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let room = KEPT_BYTES.saturating_sub(kept.len());
                kept.extend_from_slice(&bytes[..length.min(room)]);
            }
        });
        Self { kept, thread }
    }

    fn text(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Captured {
        let silent: Sink = Arc::new(|_, _| {});
        Captured::start(Command::new("sh").args(["-c", script]), &silent).unwrap()
    }

    #[test]
    fn both_streams_and_the_status_are_kept_apart() {
        let mut child = shell("echo out; echo err >&2; exit 3");
        assert!(child.wait(Duration::from_secs(10)).unwrap());
        let ended = child.finish().unwrap();
        assert_eq!(
            (ended.exit, ended.stdout.as_str(), ended.stderr.as_str()),
            (Some(3), "out\n", "err\n")
        );
    }

    #[test]
    fn a_child_that_does_not_end_is_killed_and_has_no_status() {
        let mut child = shell("exec sleep 60");
        assert!(!child.wait(Duration::from_millis(50)).unwrap());
        assert_eq!(child.finish().unwrap().exit, None);
    }

    #[test]
    fn a_signal_is_a_status() {
        let mut child = shell("exec sleep 60");
        child.terminate().unwrap();
        assert!(child.wait(Duration::from_secs(10)).unwrap());
        assert_eq!(child.finish().unwrap().exit, Some(128 + 15));
    }

    #[test]
    fn the_last_word_of_a_child_that_ends_is_heard() {
        assert!(
            shell("echo watching >&2")
                .wait_for_stderr("watching", Duration::from_secs(10))
                .unwrap()
        );
        assert!(
            !shell("echo no >&2")
                .wait_for_stderr("watching", Duration::from_secs(10))
                .unwrap()
        );
    }
}
