//! Unit and host tests, in whichever runner there is.

use anyhow::{Context as _, Result};

use crate::{command, consumers, dist, place::Place};

/// Whether all passed. They print for themselves.
pub(crate) fn run(place: &Place) -> Result<bool> {
    let with_nextest = command::succeeds(command::cargo().args(["nextest", "--version"]));
    let mut tests = command::cargo();
    tests.args(if with_nextest {
        ["nextest", "run"].as_slice()
    } else {
        ["test", "--quiet"].as_slice()
    });
    // The eBPF programs only build for their own target.
    tests.args([
        "--workspace",
        "--exclude",
        "ktls-trace-ebpf",
        "--no-fail-fast",
    ]);
    tests.args(["--features", dist::PACKAGED]);
    tests.current_dir(&place.workspace);
    tests.env(
        "KTLS_TRACE_VICTORIA_METRICS",
        consumers::victoria_metrics(place)?,
    );
    let shown = command::shown(&tests);
    eprintln!("running {shown} …");
    let status = tests
        .status()
        .with_context(|| format!("starting {shown}"))?;
    Ok(status.success())
}
