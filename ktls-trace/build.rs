//! Builds the eBPF programs and puts the object where `probe` includes it from.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya_build::{Package, Toolchain};

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
    .context("building the eBPF programs failed (is bpf-linker installed? `cargo xtask setup`)")
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
