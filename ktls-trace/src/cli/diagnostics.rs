//! The daemon's own diagnostics on stderr, written by a thread of its own: a terminal that was stopped, or a pipe that nobody reads any
//! more, holds that thread and nothing else.

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use ktls_trace::kernel::capabilities;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait; further ones are lost, and how many is said once there is room.
const WAITING: usize = 1024;
/// How long the end waits for those that do.
const END_WITHIN: Duration = Duration::from_millis(300);

/// Those of this process, if it has a thread for them.
static OF_THIS_PROCESS: OnceLock<Diagnostics> = OnceLock::new();

/// Where lines go.
#[derive(Clone, Debug)]
pub(crate) struct Diagnostics {
    /// To the thread.
    orders: SyncSender<Order>,
    /// Lines that there was no room for.
    lost: Arc<AtomicU64>,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    /// Write this.
    Write(Vec<u8>),
    /// Say when all before this is written.
    Flush(SyncSender<()>),
}

impl Diagnostics {
    /// From now on all that this process says on stderr goes this way.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let diagnostics = Self::start(io::stderr())?;
        Ok(OF_THIS_PROCESS.get_or_init(|| diagnostics).clone())
    }

    /// Starts the thread.
    fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (orders, taken) = mpsc::sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        thread::Builder::new()
            .name("diagnostics".to_owned())
            .spawn(move || {
                capabilities::keep_only(&[]);
                serve(&taken, &counted, to);
            })?;
        Ok(Self { orders, lost })
    }

    /// Waits until all is written, but not for ever.
    pub(crate) fn flush(&self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            // Nobody reads: then nobody misses it.
            let _hangs = written.recv_timeout(END_WITHIN);
        }
    }
}

/// A line on stderr. If nobody reads that any more, that is no reason to end.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let line = format!("{line}\n");
    let _unread = match OF_THIS_PROCESS.get() {
        Some(diagnostics) => diagnostics.clone().write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

/// Writes what comes.
fn serve(taken: &Receiver<Order>, lost: &AtomicU64, mut to: impl Write) {
    for order in taken {
        match order {
            Order::Write(line) => {
                let count = lost.swap(0, Ordering::Relaxed);
                if count > 0 {
                    let _unread = writeln!(
                        to,
                        "ktls-trace: {count} lines on stderr were lost: nobody read them"
                    );
                }
                // If nobody reads it any more, that is no reason to end.
                let _unread = to.write_all(&line);
            }
            Order::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _gone = done.send(());
            }
        }
    }
}

/// A line is given whole: `tracing_subscriber` formats it first.
impl Write for Diagnostics {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.orders.try_send(Order::Write(line.to_vec())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Diagnostics {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, time::Instant};

    use super::*;

    #[test]
    fn who_does_not_read_delays_nobody_and_is_told_what_was_lost() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut diagnostics = Diagnostics::start(writer).unwrap();
        let begun = Instant::now();
        // More than a pipe and the queue take.
        let line = format!("{}\n", "x".repeat(255));
        for _ in 0..4096 {
            diagnostics.write_all(line.as_bytes()).unwrap();
        }
        diagnostics.flush();
        assert!(begun.elapsed() < Duration::from_secs(10));

        let read = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        // There is room again.
        while diagnostics
            .orders
            .try_send(Order::Write(b"later\n".to_vec()))
            .is_err()
        {
            thread::sleep(Duration::from_millis(1));
        }
        drop(diagnostics);
        let text = read.join().unwrap();
        let told = text.lines().filter_map(|line| {
            let count = line.strip_prefix("ktls-trace: ")?;
            let count = count.strip_suffix(" lines on stderr were lost: nobody read them")?;
            count.parse::<usize>().ok()
        });
        let lost: usize = told.sum();
        assert!(lost > 0);
        assert_eq!(text.matches(&line).count() + lost, 4096);
        assert!(text.ends_with("later\n"));
    }
}
