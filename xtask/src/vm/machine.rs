//! The QEMU command line. Always emulation: /dev/kvm can be present and open and still kill every guest.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use xtask::job::PORT_NAME;

use crate::kernel::Kernel;

/// The virtual hardware.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Processors.
    pub(crate) smp: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Guest time is a count of instructions: the same run gives the same times. Means one processor.
    pub(crate) icount: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            smp: 2,
            memory_mib: 1024,
            icount: false,
        }
    }
}

impl Machine {
    /// QEMU with the kernel and initramfs; its stdout is the job's port, the serial console goes to a file.
    pub(crate) fn command(self, kernel: &Kernel, initramfs: &Path, console: &Path) -> Command {
        let Self {
            smp,
            memory_mib,
            icount,
        } = self;
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-machine", "pc", "-cpu", CPU, "-m", &memory_mib.to_string()]);
        if icount {
            command.args([
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-smp",
                "1",
            ]);
            // The same random numbers each time, and a clock that starts at the same moment.
            command.args(["-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
        } else {
            command.args(["-accel", "tcg,thread=multi", "-smp", &smp.to_string()]);
        }
        command
            .arg("-kernel")
            .arg(&kernel.vmlinuz)
            .arg("-initrd")
            .arg(initramfs);
        command.args(["-append", COMMAND_LINE]);
        let mut serial = std::ffi::OsString::from("file:");
        serial.push(console);
        command.arg("-serial").arg(serial);
        command.args(["-chardev", "stdio,id=job,signal=off"]);
        // Without ioeventfd the port is written in the guest's own time, as `icount` needs it.
        command.args(["-device", "virtio-serial-pci,ioeventfd=off"]);
        command.args([
            "-device",
            &format!("virtserialport,chardev=job,name={PORT_NAME}"),
        ]);
        // An end of file on its stdin would close the port, so stdin is a pipe that stays open.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// Everything QEMU can emulate but `cmpxchg16b`, with which the kernel's allocator changes its free lists. With it, QEMU 7.2 takes
/// interrupts with garbage in the flags: parts of pointers were seen in EFLAGS, where a direction flag that nobody set corrupts
/// memory. Measured on 6.12.107: 23 of 80 boots died with it (whatever else was left out), none of 30 without.
const CPU: &str = "max,-cx16";

/// `panic=-1` restarts at once, which `-no-reboot` turns into an end of QEMU.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 oops=panic";
