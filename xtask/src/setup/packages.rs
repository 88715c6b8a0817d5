//! Packages of the distribution, the only things installed outside cargo, rustup and our cache.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::{command, place::Place};

/// The program and the package that has it. Its firmware and option ROMs come with it as dependencies.
const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// The program that makes a Debian, and its package.
const MMDEBSTRAP: (&str, &str) = ("mmdebstrap", "mmdebstrap");

/// Makes packages for rpm.
const RPMBUILD: (&str, &str) = ("rpmbuild", "rpm");

/// Version of QEMU, if there is one.
pub(crate) fn qemu_present() -> Option<String> {
    first_line(Command::new(QEMU.0).arg("--version"))
}

/// Installs QEMU without the graphical half of its recommendations.
pub(crate) fn qemu_install(_place: &Place) -> Result<String> {
    install(QEMU, qemu_present)
}

/// Version of mmdebstrap, if there is one.
pub(crate) fn mmdebstrap_present() -> Option<String> {
    first_line(Command::new(MMDEBSTRAP.0).arg("--version"))
}

/// Installs mmdebstrap.
pub(crate) fn mmdebstrap_install(_place: &Place) -> Result<String> {
    install(MMDEBSTRAP, mmdebstrap_present)
}

/// Version of rpmbuild, if it is there.
pub(crate) fn rpmbuild_present() -> Option<String> {
    first_line(Command::new(RPMBUILD.0).arg("--version"))
}

/// Installs rpmbuild. dpkg-deb is on every machine that has packages to install it from.
pub(crate) fn rpmbuild_install(_place: &Place) -> Result<String> {
    install(RPMBUILD, rpmbuild_present)
}

/// Installs the package that has a program, and says so with the version.
fn install((program, package): (&str, &str), present: fn() -> Option<String>) -> Result<String> {
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {package}");
    privileged("apt-get", &["-q", "update"], &by_hand)?;
    privileged(
        "apt-get",
        &["-q", "-y", "install", "--no-install-recommends", package],
        &by_hand,
    )?;
    let version = present()
        .with_context(|| format!("{package} is installed, but {program} does not start"))?;
    Ok(format!("installed package {package} ({version})"))
}

/// Runs a tool as root: as we are, or through sudo.
fn privileged(program: &str, arguments: &[&str], by_hand: &str) -> Result<()> {
    let mut tool = if geteuid().is_root() {
        Command::new(program)
    } else if command::succeeds(Command::new("sudo").arg("-V")) {
        let mut sudo = Command::new("sudo");
        // sudo drops the environment.
        sudo.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
        sudo
    } else {
        bail!("neither root nor sudo to install packages with; as root, run `{by_hand}`");
    };
    tool.args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command::output(&mut tool)
        .map(drop)
        .with_context(|| format!("installing packages; by hand: `{by_hand}`"))
}

/// First line a tool prints on stdout; `None` if it can't be run.
pub(crate) fn first_line(tool: &mut Command) -> Option<String> {
    let text = command::output(tool).ok()?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}
