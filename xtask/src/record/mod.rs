//! `cargo xtask record-kernel`: what a kernel's plan and layout are decided from, small enough to be kept as a fixture of
//! the daemon's tests.

mod image;
mod prune;
mod raw_btf;
mod tables;
mod wanted;

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::{
    frame::Frame,
    job::{Action, Job},
};

use crate::{
    guest_image::{Bootable, Extra, Programs},
    kernel::{self, Kernel, Known},
    place::Place,
    run_directory::RunDirectory,
    setup::{self, Needs},
    vm::{Ending, Machine},
};
use raw_btf::TypeSet;
use wanted::Wanted;

/// Where recordings are kept, with the list of what they contain.
const DIRECTORY: &str = "ktls-trace/tests/kernels";
/// How long a guest may take, boot included.
const LIMIT: Duration = Duration::from_mins(5);

/// Copies the kernel's tables to where the host gets them from. `tls` is loaded by then.
const COPY: &str = "cp /proc/kallsyms /sys/kernel/btf/vmlinux /sys/kernel/btf/tls /out/ && \
    cat /sys/kernel/tracing/available_filter_functions > /out/available_filter_functions";

/// Records kernels for the daemon's tests
///
/// Boots each kernel, takes its symbols, its types and what it was built with, cuts them down to what
/// ktls-trace/tests/kernels/wanted names, and writes them to ktls-trace/tests/kernels/NAME. Of a kernel that no guest
/// runs, what its packages say is taken: types, and names of functions without addresses.
#[derive(Debug, Args)]
pub(crate) struct RecordArguments {
    /// Kernel to record; may be given again. All that can be recorded if left out
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
}

/// The tables of a kernel, whole.
struct Tables {
    vmlinux: Vec<u8>,
    tls: Option<Vec<u8>>,
    kallsyms: String,
    /// Known of a running kernel only.
    traceable: Option<String>,
}

/// Runs the verb.
pub(crate) fn run(place: &Place, arguments: &RecordArguments) -> Result<ExitCode> {
    let RecordArguments { kernel } = arguments;
    let names: Vec<&str> = if kernel.is_empty() {
        kernel::recordable().collect()
    } else {
        kernel.iter().map(String::as_str).collect()
    };
    let directory = place.workspace.join(DIRECTORY);
    let wanted = Wanted::read(&directory.join("wanted"))?;
    setup::ensure(place, Needs::Guests)?;
    for name in names {
        let (kernel, tables) = match kernel::find_not_booted(name) {
            Some(known) => from_packages(place, known),
            None => from_guest(place, kernel::find(name)?),
        }
        .with_context(|| format!("recording {name}"))?;
        write(&directory.join(name), &kernel, &tables, &wanted)
            .with_context(|| format!("recording {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Boots the kernel and takes its tables.
fn from_guest(place: &Place, known: &Known) -> Result<(Kernel, Tables)> {
    let programs = Programs::prepare(place)?;
    let bootable = Bootable::prepare(place, known)?;
    let job = Job {
        load_modules: true,
        action: Action::Command {
            argv: ["sh", "-c", COPY].map(str::to_owned).into(),
        },
    };
    let directory = RunDirectory::create(place)?;
    let mut guest = match bootable.boot_until_ready(
        &programs,
        Machine::default(),
        &job,
        Extra::default(),
        directory.path(),
        LIMIT,
    )? {
        Ok(guest) => guest,
        Err(ending) => bail!("{ending}"),
    };
    let mut files = BTreeMap::new();
    let mut said = String::new();
    loop {
        match guest.next()? {
            Ok(Frame::File { path, contents }) => {
                files.insert(path, contents);
            }
            Ok(Frame::Stderr(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(_) => {}
            Err(Ending::Exit(0)) => break,
            Err(ending) => bail!("{ending}\n{said}"),
        }
    }
    let mut take = |name: &str| {
        files
            .remove(name)
            .with_context(|| format!("the guest sent no {name}"))
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let tables = Tables {
        vmlinux: take("vmlinux")?,
        tls: Some(take("tls")?),
        kallsyms: text(take("kallsyms")?),
        traceable: Some(text(take("available_filter_functions")?)),
    };
    Ok((bootable.kernel, tables))
}

/// Takes from the kernel's packages what they have.
fn from_packages(place: &Place, known: &Known) -> Result<(Kernel, Tables)> {
    let kernel = kernel::fetch(place, known)?;
    let packed = fs::read(&kernel.vmlinuz)
        .with_context(|| format!("reading {}", kernel.vmlinuz.display()))?;
    let unpacked = image::uncompressed(packed)
        .with_context(|| format!("unpacking {}", kernel.vmlinuz.display()))?;
    let mut kallsyms = image::kallsyms(&unpacked)?;
    let modules = kernel::module_files(&kernel.modules_dir)?;
    let mut tls = None;
    if let Some(path) = modules.get("tls") {
        let module = kernel::read_module(path)?;
        // A kernel from before 5.11 has none for its modules.
        tls = kernel::section(&module, ".BTF").ok().map(<[u8]>::to_vec);
        for name in kernel::functions(&module)? {
            kallsyms.extend(["0000000000000000 t ", &name, "\t[tls]\n"]);
        }
    }
    let tables = Tables {
        vmlinux: image::btf(&unpacked)?.to_vec(),
        tls,
        kallsyms,
        traceable: None,
    };
    Ok((kernel, tables))
}

/// Prunes the tables and writes them, in place of what was there.
fn write(directory: &Path, kernel: &Kernel, tables: &Tables, wanted: &Wanted) -> Result<()> {
    let Tables {
        vmlinux,
        tls,
        kallsyms,
        traceable,
    } = tables;
    let vmlinux = TypeSet::decode(vmlinux).context("decoding the kernel's BTF")?;
    let tls = tls
        .as_ref()
        .map(|tls| TypeSet::decode_split(tls, &vmlinux).context("decoding the BTF of tls"))
        .transpose()?;
    let pruned = prune::prune(&vmlinux, tls.as_ref(), wanted)?;
    let config = match &kernel.config {
        Some(path) => {
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
        }
        None => bail!("the kernel's packages don't say what it was built with"),
    };
    let how = if traceable.is_some() {
        "booted"
    } else {
        "not booted, taken from its packages: no addresses, and not known what can be traced"
    };
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("release", format!("{}\n", kernel.release).into()),
        ("origin", format!("{}\n{how}\n", kernel.origin).into()),
        (
            "config",
            tables::prune_config(&config, &wanted.settings).into(),
        ),
        (
            "kallsyms",
            tables::prune_kallsyms(kallsyms, &wanted.functions).into(),
        ),
        ("btf/vmlinux", pruned.vmlinux),
    ];
    files.extend(pruned.tls.map(|tls| ("btf/tls", tls)));
    if let Some(traceable) = traceable {
        let rows = tables::prune_traceable(traceable, &wanted.functions);
        files.push(("available_filter_functions", rows.into()));
    }
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("removing {}", directory.display()))?;
    }
    fs::create_dir_all(directory.join("btf"))
        .with_context(|| format!("creating {}", directory.display()))?;
    let mut bytes = 0;
    for (name, contents) in files {
        let path = directory.join(name);
        fs::write(&path, &contents).with_context(|| format!("writing {}", path.display()))?;
        bytes += contents.len();
    }
    println!(
        "{}: {} in {bytes} bytes",
        directory.display(),
        kernel.release
    );
    Ok(())
}
