//! The figures as a page of the documentation.

use std::{collections::BTreeMap, fmt::Write as _};

use super::figures::{
    AGAIN, Attached, Before, Calls, Crowd, Daemon, Figures, NONE, Rows, SETTINGS, WATCHED_SECONDS,
};

/// The script's name for a writer that fills its buffer and is refused twice, each time.
const REFUSED: &str = "kTLS write, refused each time";
/// … for one that sends a file.
const SENDFILE: &str = "kTLS sendfile, MSS 65483";
/// … for one that sends a byte each time.
const ONE_BYTE: &str = "kTLS write, 1 byte each";
/// … for those that programs of `full` have nothing to do for.
const PLAIN: [&str; 2] = ["plain TCP sendfile", "plain TCP write, 1 byte each"];

/// The whole page.
pub(super) fn of(figures: &Figures) -> String {
    let Figures {
        kernel,
        binary_bytes,
        seconds,
        sends,
        transfers,
        sent,
        lines,
        daemon,
        crowds,
        attached,
        before,
        programs,
        hits,
        calls: _,
    } = figures;
    let count = |counts: &BTreeMap<String, u64>, setting| counts.get(setting).copied().unwrap_or(0);
    let told: Vec<String> = ["auto", "light", "full"]
        .map(|setting| {
            let (lines, sent) = (count(lines, setting), count(sent, setting));
            format!("{lines} of {sent} sends with `{setting}`")
        })
        .to_vec();
    let mut page = format!(
        "# What it costs\n\n\
         Written by `cargo xtask bench`, in a guest with {kernel} on one processor under `-icount shift=0`: there a nanosecond is an \
         instruction, so the same\nrun takes the same time, whatever the host does. What the limits are made of: at the end.\n\n\
         `bpftrace` is Debian 13's, with `xtask/src/bench/peer.bt`: the hooks of `full`, doing in a few lines what can be done so.\n\n\
         ## A fixed number of sends, nothing wrong\n\n\
         One thread has both ends: it sends, reads what has arrived, and sends again (`odd lockstep`). Instructions of a send and its \
         receipt without the daemon,\nand sends a second as a part of that: without it once more at the end (`again`), and with it.\n\n\
         | workload | instructions | again | {} |\n|---|---|---|---|---|---|---|\n",
        named(&SETTINGS),
    );
    page += &rows(
        sends,
        &SETTINGS,
        |without, with| without / with,
        |ns| format!("{ns:.0}"),
    );
    // Writing to a string does not fail.
    let _written = write!(
        page,
        "\nLines that the daemon wrote meanwhile, while a million more were sent with `auto` and with `full`, and in the transfers below: {}.\n\n\
         ## Transfers, nothing wrong\n\n\
         Two threads, {seconds} s of guest time each: bytes received a second, and as a part of that. How segments batch moves it, \
         also upwards, whenever anything shifts timing, most for\nplain TCP: a difference smaller than that of `again` from 1 says \
         nothing.\n\n\
         | workload | without | again | {} |\n|---|---|---|---|---|---|---|\n",
        told.join(", "),
        named(&SETTINGS),
    );
    page += &rows(transfers, &SETTINGS, |without, with| with / without, per_s);
    page += &of_daemon(daemon);
    page += &of_crowds(crowds);
    page += &before.map(of_before).unwrap_or_default();
    page += &attached.map(of_attached).unwrap_or_default();
    page += &of_programs(*binary_bytes, programs);
    page += &of_hits(hits);
    page += &of_calls(figures);
    page += &of_limits(figures);
    page
}

/// Settings as the head of a table has them.
fn named(settings: &[&str]) -> String {
    let named = settings.iter().map(|setting| format!("`{setting}`"));
    named.collect::<Vec<_>>().join(" | ")
}

/// Rows of parts, one for each of the settings, with the figure without the daemon before them.
fn rows(
    rows: &Rows,
    settings: &[&str],
    part: impl Fn(f64, f64) -> f64,
    show: impl Fn(f64) -> String,
) -> String {
    let row = |(workload, figures): &(String, BTreeMap<String, f64>)| {
        let without = figures.get(NONE).copied();
        let cell = |setting: &str| {
            let both = without.zip(figures.get(setting));
            both.map_or_else(
                || "–".to_owned(),
                |(without, &with)| format!("{:.4}", part(without, with)),
            )
        };
        let without = without.map_or_else(|| "–".to_owned(), &show);
        let parts: Vec<String> = settings.iter().map(|setting| cell(setting)).collect();
        let parts = parts.join(" | ");
        format!("| {workload} | {without} | {} | {parts} |\n", cell(AGAIN))
    };
    rows.iter().map(row).collect()
}

/// What the daemon takes for itself, a row a figure.
fn of_daemon(daemon: &BTreeMap<String, Daemon>) -> String {
    let row = |what: &str, of: &dyn Fn(&Daemon) -> Option<String>| {
        let cell = |setting| daemon.get(setting).and_then(of);
        let cells = SETTINGS.map(|setting| cell(setting).unwrap_or_else(|| "–".to_owned()));
        format!("| {what} | {} |\n", cells.join(" | "))
    };
    // bpftrace says nothing of what it left out.
    let ours = |daemon: &Daemon| daemon.idle_seconds > 0;
    [
        format!(
            "\n## The daemon itself\n\n| | {} |\n|---|---|---|---|---|\n",
            named(&SETTINGS)
        ),
        row(
            "from start to `watching`, or to the last kprobe",
            &|daemon| Some(format!("{:.2} s", daemon.start_s)),
        ),
        row("resident, idle", &|daemon| {
            Some(format!("{} KiB", daemon.resident_kib))
        }),
        row("resident at most until then", &|daemon| {
            Some(format!("{} KiB", daemon.peak_kib))
        }),
        row("processor while idle", &|daemon| {
            let share = daemon.idle_share * 100.0;
            ours(daemon).then(|| format!("{share:.4} % ({} s)", daemon.idle_seconds))
        }),
        row("times a writer was refused, all runs", &|daemon| {
            ours(daemon).then(|| daemon.refused.to_string())
        }),
        row(
            "of which back-pressure, which is counted and not told",
            &|daemon| ours(daemon).then(|| daemon.back_pressure.to_string()),
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
            refused_per_s,
            resident_kib,
            ss_share,
            ss_ms,
            two_processors,
        } = crowd;
        let guest = if *two_processors {
            "two, not counting"
        } else {
            "one, counting"
        };
        let (percent, ss_percent) = (share * 100.0, ss_share * 100.0);
        let ss = if *ss_ms > 0.0 {
            format!("{ss_percent:.1} % | {ss_ms:.1} ms")
        } else {
            "– | –".to_owned()
        };
        let lost = lost.map_or_else(|| "?".to_owned(), |lost| lost.to_string());
        let often = refused_per_s.filter(|often| *often > 0.0);
        let refused = often.map_or_else(
            || "– | –".to_owned(),
            |often| format!("{often:.1} | {:.0}", share * 1e9 / often),
        );
        format!(
            "| {guest} | {idle} | {stalled} | {opened} | {lost} | {flagged_ms:.1} ms | {percent:.2} % | {refused} | {resident_kib} KiB | {ss} |\n"
        )
    };
    let rows: String = crowds.iter().map(row).collect();
    format!(
        "\n## Stalls among sockets that have nothing to send\n\n\
         With `auto` (with two processors `full`), non-blocking writers on one epoll; the processor is measured for {WATCHED_SECONDS:.0} s once all were told. \
         The processor's share goes with how often a writer is refused, and that with what happens to release the records, which is why 10 and 10,000 idle sockets \
         may differ: so the refusals a second stand beside it, and the instructions that come to each. They are asked for where one socket stalls only: where metrics are served the daemon \
         keeps each open stall as JSON, too, and many would show in its memory. Instead of the daemon \
         `ss -tien`, run over and over with pauses of 50 ms. The guest with two processors is emulated as fast as this host goes, and its figures \
         differ from run to run.\n\n\
         | processors | idle kTLS sockets | stalled | told | lost | the first told after | processor while watched | refused a second | for each | resident then | `ss` instead | one run of it |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n{rows}"
    )
}

/// A stall among sockets that were there before the daemon.
fn of_before(before: Before) -> String {
    let Before {
        idle,
        opened,
        resident_kib,
        peak_kib,
    } = before;
    format!(
        "\nSockets that were there before the daemon, which asks about all of them once as it begins (`auto`):\n\n\
         | idle kTLS sockets | stalled | told | resident then | resident at most until then |\n|---|---|---|---|---|\n\
         | {idle} | 1 | {opened} | {resident_kib} KiB | {peak_kib} KiB |\n"
    )
}

/// What it takes until hooks that come with a stall are there, and what is missed until then.
fn of_attached(attached: Attached) -> String {
    let Attached {
        gap_ms,
        took_ms,
        releases,
        unknown,
    } = attached;
    format!(
        "\n## Hooks that come with a stall\n\n\
         With `auto`, one stall among 10 idle sockets: the hot hooks were attached {gap_ms:.1} ms after it was told; attaching took {took_ms:.0} ms \
         of that, in a thread of its own.\nOf the {releases} holds that had ended when the daemon was stopped, no hook saw who let {unknown} go \
         (`released.unknown`).\n"
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
        "\n## The programs\n\n\
         The static binary, with them in it, has {binary_bytes} bytes. Instructions that the verifier went through: those with `fentry_` are called \
         by trampolines, the others are kprobes for kernels that have none.\n\n\
         | program | instructions |\n|---|---|\n{rows}"
    )
}

/// How long the programs run.
fn of_hits(hits: &BTreeMap<String, (f64, f64)>) -> String {
    let row = |(hook, (runs, seconds)): (&String, &(f64, f64))| {
        let each = seconds * 1e9 / runs;
        format!("| `{hook}` | {runs} | {each:.0} |\n")
    };
    let rows: String = hits.iter().map(row).collect();
    format!(
        "\n## A run of each program\n\n\
         With `full`, in a run of its own: fewer of the sends of the first table, then 3 s of `ktls-trace repro`, whose records are held. Hooks that \
         none of this meets have no row. From `kernel.bpf_stats_enabled`, whose own cost is in it; that of calling the program is not.\n\n\
         | hook | runs | instructions each |\n|---|---|---|\n{rows}"
    )
}

/// What calling a program costs, in instructions: what `full` adds to sends of plain TCP, for which its programs return at once.
fn call(figures: &Figures) -> Option<f64> {
    let plain = |calls: &&Calls| PLAIN.contains(&calls.workload.as_str());
    let each = |calls: &Calls| {
        let (without, with) = figures.instructions(&calls.workload, "full")?;
        Some((with - without) / calls.a_send())
    };
    let each = figures.calls.iter().filter(plain).filter_map(each);
    each.min_by(f64::total_cmp)
}

/// What would be left of sends if the programs of `full` were called as often and did nothing.
fn floor(figures: &Figures, calls: &Calls) -> Option<f64> {
    let (without, _) = figures.instructions(&calls.workload, "full")?;
    Some(without / (without + calls.a_send() * call(figures)?))
}

/// How often the programs of `full` are called, and what that costs.
fn of_calls(figures: &Figures) -> String {
    let row = |calls: &Calls| {
        let both = figures.instructions(&calls.workload, "full");
        format!(
            "| {} | {:.1} | {} | {:.0} | {} | {} |\n",
            calls.workload,
            calls.a_send(),
            shown(both.map(|(without, with)| with - without), 0),
            calls.seconds * 1e9 / calls.sends,
            shown(floor(figures, calls), 4),
            shown(both.map(|(without, with)| without / with), 4),
        )
    };
    let rows: String = figures.calls.iter().map(row).collect();
    format!(
        "\n## What calling them costs\n\n\
         From the same run. For plain TCP the programs of `full` return at once, as long as no socket is under suspicion: what they add to such a send is what it costs to call them, \
         {} instructions each, the smaller of the two figures. What kTLS sends would keep if they were called as often and did nothing is the floor; `refused each time` is called by \
         kprobes, too, which cost more.\n\n\
         | workload | programs called a send | instructions that `full` adds | of those by the kernel's count, its own cost in it | floor | kept |\n\
         |---|---|---|---|---|---|\n{rows}",
        shown(call(figures), 0)
    )
}

/// What was found about the figures that are not as they should be.
fn of_limits(figures: &Figures) -> String {
    let Figures {
        daemon,
        crowds,
        hits,
        calls,
        ..
    } = figures;
    let both = figures.instructions(REFUSED, "auto");
    let lost = shown(both.map(|(without, with)| 1.0 - without / with), 4);
    // Refused twice a send.
    let refusal = shown(both.map(|(without, with)| (with - without) / 2.0), 0);
    let program = hits.get("sk_stream_wait_memory");
    let program = shown(program.map(|(runs, seconds)| seconds * 1e9 / runs), 0);
    let thousand = |two_processors: bool| {
        let crowd = crowds
            .iter()
            .find(|crowd| crowd.stalled == 1000 && crowd.two_processors == two_processors);
        shown(crowd.map(|crowd| crowd.share * 100.0), 0)
    };
    let (one, two) = (thousand(false), thousand(true));
    let start = |setting: &str| daemon.get(setting).map(|daemon| daemon.start_s);
    let calls_of = |workload| calls.iter().find(|calls| calls.workload == workload);
    let floor_of = |workload| {
        shown(
            calls_of(workload).and_then(|calls| floor(figures, calls)),
            4,
        )
    };
    let (floor_sendfile, floor_byte) = (floor_of(SENDFILE), floor_of(ONE_BYTE));
    let often = |workload| shown(calls_of(workload).map(Calls::a_send), 1);
    let (often_sendfile, often_byte) = (often(SENDFILE), often(ONE_BYTE));
    let call = shown(call(figures), 0);
    let both = start("auto").zip(start("bpftrace"));
    let start = shown(both.map(|(ours, theirs)| ours / theirs), 2);
    format!(
        "
## What the limits are made of

**`full`** is to keep 0.995 of a transfer, and 0.97 of one-byte writes. It does not: each kTLS send runs one program and each record another, each segment one, and each timer that TCP
arms one more. Being called costs {call} instructions each time: of one-byte writes ({often_byte} calls a send) programs that do nothing would leave {floor_byte}, and of a `sendfile` ({often_sendfile}) {floor_sendfile}.
Tried, in this order, each kept: the
return of `tls_push_sg` is not hooked (a hook on a return costs twice, and a map of calls under way had to go with it); trampolines
instead of kprobes; a flag that says whether there is any suspect before one is looked up; no clock at the beginning of a send. What is left is reading the
socket through `bpf_probe_read_kernel` and the map of what was sent. `auto`, the default, has none of these hooks attached until there is a stall.

**Back-pressure** is to cost 0.002 at most. Where a writer fills its buffer, is refused twice, and all is read (`refused each time`), it costs {lost} even with `auto`:
{refusal} instructions a refusal, {program} of them in the program on `sk_stream_wait_memory` (by the kernel's count, with that count's own cost), most of those for reading the socket;
the kprobe is the rest. A trampoline there would cost less, and was tried: see `docs/kernels.md` for why it is not used. Reads of neighbouring members are joined where the kernel's layout has them
side by side, and the operations of `tls` are known by their address after the first time. In the transfers, where the writer sleeps until half the buffer is free, nothing can be measured.

**A thousand stalls at once** are to take less than half a processor. They take {one} % where instructions are counted and the hot hooks come with the stalls; with two
emulated processors, `full`, and the figure made of time, {two} %. What that is made of was looked at once (`cargo xtask vm --kernel 6.12 --memory 2048`, the same crowd, 10 s of `/proc/PID/task/*/schedstat` and `stat`): of
55 %, 53 are the thread that reads the ring buffer and correlates, 38 of these in user space and 15 in the kernel, and 2 the one that writes events. Writers were refused some 2800 times a second, each hold leaves two records, and the
thread wakes 350 times a second, for it leaves the ring buffer alone for 2 ms where records come one after the other; before it did, it took 61 % there and 31 % where instructions are counted, but 44,000 to 47,000 instructions a refusal where one socket
stalls, for a refusal and what follows at once wake it twice now. The rest is the work on each
record, and on the answers of `sock_diag`, which is asked about a socket whose episode is proven once a second and not at each hold: some 130 µs of an emulated processor in user space for each refusal, 50 in the kernel. Of that the correlator is the smaller part: a `replay`
of such a run under callgrind has 6,200 instructions in it for each observation.

**Ten thousand stalls at once**, measured once by putting that crowd into the script (6.12, one processor, 60 s): 9968 told, 46 % of the processor, 64,744 KiB resident. The processor had more to do
than it could, a hold lasted for seconds, and when the daemon was ended the last events did not all reach the file in the time that it gives itself.

**From start to `watching`** was to take a fifth of what bpftrace takes to attach. It takes {start} of that. What it is made of, with `cargo xtask vm --icount -- sh -c
'RUST_LOG=debug ktls-trace run --duration 1s'` and the like: the kernel copies its BTF, 6 MB, 0.09 s, twice, because aya's loader reads and parses it for relocations that
Rust programs don't carry, and can't be told not to; its 130,000 types are walked through once for some 25 names; programs are verified and kprobes attached, 0.18 s. What it was
made of before: `/proc/kallsyms` 0.68 s (the kernel makes 160,000 lines) and `available_filter_functions` 0.29 s, which are not read any more where BTF tells of every function that is hooked;
the kernel's types walked through for each name of the module's, 0.4 s. `full` has to read `/proc/kallsyms` first, for the stacks; with `auto` that is done in the background afterwards.
"
    )
}

/// A figure, if there is one.
fn shown(figure: Option<f64>, decimals: usize) -> String {
    match figure {
        Some(figure) => format!("{figure:.decimals$}"),
        None => "–".to_owned(),
    }
}

/// A speed in units of 1000.
fn per_s(bytes: f64) -> String {
    if bytes >= 1e6 {
        format!("{:.2} MB/s", bytes / 1e6)
    } else {
        format!("{:.0} kB/s", bytes / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::SCRIPT;

    #[test]
    fn the_script_measures_what_the_limits_are_about() {
        let [sendfile, one_byte] = PLAIN;
        for workload in [REFUSED, SENDFILE, ONE_BYTE, sendfile, one_byte] {
            assert!(SCRIPT.contains(&format!("$1 '{workload}' ")));
        }
        for what in ["sends", "called"] {
            assert!(SCRIPT.contains(&format!("    workloads {what}\n")));
        }
    }
}
