//! The virtio port to the host.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xtask::{frame::Frame, job::PORT_NAME};

/// How long the port may take to appear: the driver makes it known after its module has loaded.
const APPEARS_WITHIN: Duration = Duration::from_secs(20);

/// Sends frames; clones share the port.
#[derive(Clone, Debug)]
pub(crate) struct Port(Arc<Mutex<File>>);

impl Port {
    /// Opens the port once it is there.
    pub(crate) fn open() -> Result<Self> {
        let started = Instant::now();
        let path = loop {
            if let Some(path) = find() {
                break path;
            }
            if started.elapsed() > APPEARS_WITHIN {
                anyhow::bail!("no virtio port {PORT_NAME}");
            }
            thread::sleep(Duration::from_millis(2));
        };
        let file = File::options()
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// Sends one frame whole.
    pub(crate) fn send(&self, frame: &Frame) -> io::Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame.write_to(&mut *file)
    }
}

fn find() -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()? {
        let path = entry.ok()?.path();
        let name = fs::read_to_string(path.join("name")).unwrap_or_default();
        let device = PathBuf::from("/dev").join(path.file_name()?);
        if name.trim() == PORT_NAME && device.exists() {
            return Some(device);
        }
    }
    None
}
