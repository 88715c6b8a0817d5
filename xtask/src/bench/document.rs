//! The figures as a page of the documentation.

use std::{collections::BTreeMap, fmt};

use super::{Crowd, Daemon, Figures, IDLE_SECONDS, SETTINGS, WATCHED_SECONDS};

/// The whole page.
pub(super) fn of(figures: &Figures) -> String {
    let Figures {
        kernel,
        binary_bytes,
        seconds,
        runs,
        lines,
        daemon,
        crowds,
        programs,
    } = figures;
    let mut page = String::new();
    let mut line = |text: fmt::Arguments<'_>| {
        page.push_str(&text.to_string());
        page.push('\n');
    };
    line(format_args!(
        "# What it costs\n\n\
         Written by `cargo xtask bench`, in a guest with {kernel} on one processor under `-icount shift=0`: there a nanosecond is an \
         instruction, so the same\nrun takes the same time, whatever the host does. {seconds} s of guest time each.\n\n\
         ## Throughput, nothing wrong\n\n\
         Bytes received a second without the daemon, and as a part of that: without it once more at the end (`again`), and with it.\n"
    ));
    line(format_args!(
        "| workload | without | again | {} | lines written |\n|---|---|---|---|---|---|---|",
        SETTINGS.map(|setting| format!("`{setting}`")).join(" | ")
    ));
    for (workload, settings) in runs {
        let without = settings.get("none").copied();
        let ratio = |setting: &str| {
            settings.get(setting).zip(without).map_or_else(
                || "–".to_owned(),
                |(with, without)| format!("{:.4}", with / without),
            )
        };
        let ratios = SETTINGS.map(ratio);
        let counted: u64 = lines.get(workload).map_or(0, |lines| lines.values().sum());
        line(format_args!(
            "| {workload} | {} | {} | {} | {counted} |",
            without.map_or_else(|| "–".to_owned(), per_s),
            ratio("again"),
            ratios.join(" | ")
        ));
    }
    line(format_args!(
        "\nEach is run once. How segments batch moves throughput, also upwards, whenever anything shifts timing, most where the MSS is large \
         and for plain TCP:\na difference smaller than that of `again` from 1 says nothing.\n\n\
         ## The daemon itself\n\n\
         | | {} |\n|---|---|---|---|",
        SETTINGS.map(|setting| format!("`{setting}`")).join(" | ")
    ));
    page.push_str(&of_daemon(daemon));
    page.push_str(&of_crowds(crowds));
    page.push_str(&of_programs(*binary_bytes, programs));
    page
}

/// What the daemon takes for itself, a row a figure.
fn of_daemon(daemon: &BTreeMap<String, Daemon>) -> String {
    let row = |what: &str, of: &dyn Fn(&Daemon) -> String| {
        let cells = SETTINGS.map(|setting| daemon.get(setting).map_or_else(|| "–".to_owned(), of));
        format!("| {what} | {} |\n", cells.join(" | "))
    };
    [
        row("from start to `watching`", &|daemon| {
            format!("{:.2} s", daemon.start_s)
        }),
        row("resident, idle", &|daemon| {
            format!("{} KiB", daemon.resident_kib)
        }),
        row("resident at most until then", &|daemon| {
            format!("{} KiB", daemon.peak_kib)
        }),
        row(
            &format!("processor while idle ({IDLE_SECONDS:.0} s)"),
            &|daemon| format!("{:.4} %", daemon.idle_share * 100.0),
        ),
        row("times a writer was refused, all runs", &|daemon| {
            daemon.refused.to_string()
        }),
        row(
            "of which back-pressure, which is counted and not told",
            &|daemon| daemon.back_pressure.to_string(),
        ),
    ]
    .concat()
}

/// Stalls among sockets that have nothing to send, a row each.
fn of_crowds(crowds: &[Crowd]) -> String {
    let row = |crowd: &Crowd| {
        let Crowd {
            idle,
            stalled,
            opened,
            lost,
            flagged_ms,
            share,
            resident_kib,
        } = crowd;
        let percent = share * 100.0;
        format!(
            "| {idle} | {stalled} | {opened} | {lost} | {flagged_ms:.1} ms | {percent:.2} % | {resident_kib} KiB |\n"
        )
    };
    let rows: String = crowds.iter().map(row).collect();
    format!(
        "\n## Stalls among sockets that have nothing to send\n\n\
         With `auto`, non-blocking writers on one epoll; the processor is measured for {WATCHED_SECONDS:.0} s once all were told.\n\n\
         | idle kTLS sockets | stalled | told | lost | the first told after | processor while watched | resident then |\n\
         |---|---|---|---|---|---|---|\n{rows}"
    )
}

/// The binary and its programs.
fn of_programs(binary_bytes: u64, programs: &BTreeMap<String, u64>) -> String {
    let rows: Vec<String> = programs
        .iter()
        .map(|(program, instructions)| format!("| `{program}` | {instructions} |\n"))
        .collect();
    let rows = rows.concat();
    format!(
        "\nThe static binary has {binary_bytes} bytes.\n\n\
         ## The programs\n\n\
         Instructions that the verifier went through.\n\n\
         | program | instructions |\n|---|---|\n{rows}"
    )
}

/// A speed in units of 1000.
fn per_s(bytes: f64) -> String {
    if bytes >= 1e6 {
        format!("{:.2} MB/s", bytes / 1e6)
    } else {
        format!("{:.0} kB/s", bytes / 1e3)
    }
}
