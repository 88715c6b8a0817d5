//! The guest's init: mounts what a distribution would have mounted, leaves every sysctl as the kernel set it, starts the job,
//! reaps orphans, and powers off.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{self, Command},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, chdir, chroot, sethostname},
};

use crate::{modules, runner};

/// File system, where it goes, options.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("devpts", "/dev/pts", "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=0755"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", "mode=0700"),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
];

/// Those without which modules can't be loaded.
const FIRST: &[&str] = &["/proc", "/sys", "/dev"];
/// Where a distribution has its init.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Never returns while the guest lives: the kernel panics when init ends.
pub(crate) fn main() -> Result<()> {
    if process::id() != 1 {
        anyhow::bail!("only process 1 is init");
    }
    let done = if fs::exists(SYSTEMD).unwrap_or(false) {
        become_systemd()
    } else {
        prepare().and_then(|()| run_job())
    };
    if let Err(error) = done {
        eprintln!("guest: init: {error:#}");
    }
    reboot(RebootMode::RB_POWER_OFF).context("powering off")?;
    Ok(())
}

/// Loads what the guest needs to answer, and leaves the rest to systemd, which starts the job as a service.
fn become_systemd() -> Result<()> {
    for (kind, target, options) in MOUNTS.iter().filter(|(_, at, _)| FIRST.contains(at)) {
        mount(
            Some(*kind),
            *target,
            Some(*kind),
            MsFlags::empty(),
            Some(*options),
        )
        .with_context(|| format!("mounting {kind} on {target}"))?;
    }
    modules::load_transport()?;
    // The root of an initramfs can't be changed for another (pivot_root(2)), which services with a view of their own need:
    // so it becomes one that is mounted.
    let nothing: Option<&str> = None;
    mount(
        Some("/"),
        "/mnt",
        nothing,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        nothing,
    )
    .context("binding the root")?;
    chdir("/mnt").context("entering the bound root")?;
    mount(Some("."), "/", nothing, MsFlags::MS_MOVE, nothing).context("moving the root")?;
    chroot(".").context("changing the root")?;
    let error = Command::new(SYSTEMD).env_clear().exec();
    Err(error).context("starting systemd")
}

fn prepare() -> Result<()> {
    for (kind, target, options) in MOUNTS {
        fs::create_dir_all(target).with_context(|| format!("creating {target}"))?;
        // A kernel may lack one; whoever needs it will say so.
        if let Err(errno) = mount(
            Some(*kind),
            *target,
            Some(*kind),
            MsFlags::empty(),
            Some(*options),
        ) {
            eprintln!("guest: init: mounting {kind} on {target}: {errno}");
        }
    }
    sethostname("guest").context("setting the host name")?;
    let status = Command::new("/bin/busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    if !status.context("starting busybox")?.success() {
        anyhow::bail!("lo does not come up");
    }
    modules::load_transport()
}

/// Starts the process that does the job and reaps everything until that one has ended.
fn run_job() -> Result<()> {
    let job = Command::new("/init")
        .arg0(runner::NAME)
        .spawn()
        .context("starting the job")?;
    let job =
        Pid::from_raw(i32::try_from(job.id()).context("a process id past the range of pid_t")?);
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(job) => {
                if let WaitStatus::Signaled(_, signal, _) = status {
                    anyhow::bail!("the job was killed by {signal}");
                }
                return Ok(());
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("waiting for the job"),
        }
    }
}
