//! Builds the eBPF programs and puts the object where `probe` includes it from.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya_build::{Package, Toolchain};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

fn main() -> Result<()> {
    check_rust_src()?;
    // build-std is unstable; the programs are built with it on the stable toolchain. So is trim-paths: the debug
    // information names each source file, and the object is to be the same wherever it is built.
    // SAFETY: this build script has one thread at this point.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        env::set_var("CARGO_UNSTABLE_TRIM_PATHS", "true");
        env::set_var("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all");
        // aya-build shows cargo's progress as warnings.
        env::set_var("CARGO_TERM_QUIET", "true");
    };
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")?;
    let programs = root.join("ktls-trace-ebpf");
    let common = root.join("ktls-trace-common");
    println!("cargo:rerun-if-changed={}", common.display());
    aya_build::build_ebpf(
        [Package {
            name: "ktls-trace-ebpf",
            root_dir: programs.to_str().context("the path is not UTF-8")?,
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain),
    )
    .context("building the eBPF programs failed (is bpf-linker installed? `cargo xtask setup`)")?;
    let object =
        Path::new(&env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join("ktls-trace");
    strip(&object).with_context(|| format!("stripping {}", object.display()))
}

/// Takes out what is for debuggers: three quarters of the object. BTF stays, it makes the verifier's words readable.
fn strip(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let mut object = Builder::read(bytes.as_slice())?;
    for section in &mut object.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    object.delete_orphans();
    // LLVM has one table for the names of sections and symbols.
    let names = object.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    fs::write(path, stripped)?;
    Ok(())
}

/// Without the standard library's source the build fails with a page of text; say it in a line.
fn check_rust_src() -> Result<()> {
    let rustc = env::var_os("RUSTC").context("RUSTC is not set")?;
    let output = std::process::Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .context("cannot run rustc")?;
    let sysroot = String::from_utf8(output.stdout).context("the sysroot is not UTF-8")?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    ensure!(
        fs::exists(&core).unwrap_or(false),
        "the eBPF programs need rust-src, which is missing ({}): run `cargo xtask setup`",
        core.display()
    );
    Ok(())
}
