//! A snapshot as a table for people: one line a socket, and for those with a verdict the facts and what to do next.

use std::io::{self, Write};

use super::name;
use crate::{
    correlate::event::ProcessInfo,
    snapshot::{
        document::{Counts, Snapshot, SocketReport},
        verdict::per_s,
    },
};

/// Sockets shown unless all are wanted.
pub const FEW: usize = 40;

/// Columns between which the table is laid out; it is never narrower.
const NARROWEST: usize = 60;

/// How the lines below a socket are set off.
const INDENT: &str = "    ";

/// A column: its title, whether numbers stand in it, and what is in it.
struct Column {
    title: &'static str,
    right: bool,
    /// Most characters that it takes.
    most: usize,
    /// The higher, the sooner it is left out where there is no room.
    dispensable: u8,
    cell: fn(&SocketReport) -> String,
}

const COLUMNS: [Column; 8] = [
    Column {
        title: "VERDICT",
        right: false,
        most: 23,
        dispensable: 0,
        cell: verdict,
    },
    Column {
        title: "PROCESS",
        right: false,
        most: 20,
        dispensable: 1,
        cell: process,
    },
    Column {
        title: "CONNECTION",
        right: false,
        most: usize::MAX,
        dispensable: 0,
        cell: connection,
    },
    Column {
        title: "UNSENT",
        right: true,
        most: 10,
        dispensable: 0,
        cell: |socket| known(socket.evidence.tcp.tcp.notsent),
    },
    Column {
        title: "OUT",
        right: true,
        most: 6,
        dispensable: 2,
        cell: |socket| known(socket.evidence.tcp.tcp.packets_out),
    },
    Column {
        title: "WINDOW",
        right: true,
        most: 10,
        dispensable: 3,
        cell: |socket| known(socket.evidence.tcp.tcp.snd_wnd),
    },
    Column {
        title: "MSS",
        right: true,
        most: 6,
        dispensable: 4,
        cell: |socket| known(socket.evidence.tcp.tcp.mss),
    },
    Column {
        title: "SENT",
        right: true,
        most: 10,
        dispensable: 0,
        cell: |socket| {
            let rates = socket.evidence.rates;
            rates
                .and_then(|rates| rates.sent_per_s)
                .map_or_else(|| "-".to_owned(), per_s)
        },
    },
];

/// Writes a snapshot, in lines of at most `width` characters where words allow it. Without `all`, only the first
/// [`FEW`] sockets.
///
/// # Errors
///
/// If it can't be written.
pub fn write(snapshot: &Snapshot, width: usize, all: bool, out: &mut impl Write) -> io::Result<()> {
    let width = width.max(NARROWEST);
    let shown = if all { usize::MAX } else { FEW };
    let shown = &snapshot.sockets[..snapshot.sockets.len().min(shown)];
    if !shown.is_empty() {
        let columns = fit(shown, width);
        let titles = columns
            .iter()
            .map(|(column, room)| (column.title.to_owned(), column.right, *room));
        writeln!(out, "{}", line(titles))?;
        for socket in shown {
            let cells = columns
                .iter()
                .map(|(column, room)| ((column.cell)(socket), column.right, *room));
            writeln!(out, "{}", line(cells))?;
            if socket.verdict.is_some() {
                details(socket, &columns, width, out)?;
            }
        }
        let more = snapshot.sockets.len() - shown.len();
        if more > 0 {
            writeln!(out, "… and {more} more (--all)")?;
        }
        writeln!(out)?;
    }
    summary(snapshot, width, out)
}

/// The columns that there is room for, and how much each gets. What is cut short in the end is the connection.
fn fit(sockets: &[SocketReport], width: usize) -> Vec<(&'static Column, usize)> {
    let mut columns: Vec<(&Column, usize)> = COLUMNS
        .iter()
        .map(|column| {
            let longest = sockets
                .iter()
                .map(|socket| (column.cell)(socket).chars().count())
                .fold(column.title.len(), usize::max);
            (column, longest.min(column.most))
        })
        .collect();
    let too_wide = |columns: &[(&Column, usize)]| {
        let taken: usize = columns.iter().map(|(_, room)| room + 1).sum();
        (taken - 1).saturating_sub(width)
    };
    while too_wide(&columns) > 0 {
        let least = columns.iter().map(|(column, _)| column.dispensable).max();
        match least.filter(|&least| least > 0) {
            Some(least) => columns.retain(|(column, _)| column.dispensable != least),
            None => break,
        }
    }
    let excess = too_wide(&columns);
    for (column, room) in &mut columns {
        if column.title == "CONNECTION" {
            *room = room.saturating_sub(excess).max(column.title.len());
        }
    }
    columns
}

/// A line of cells, each with its alignment and its room.
fn line(cells: impl Iterator<Item = (String, bool, usize)>) -> String {
    let cells: Vec<String> = cells
        .map(|(cell, right, room)| {
            let cell = shortened(&cell, room);
            if right {
                format!("{cell:>room$}")
            } else {
                format!("{cell:<room$}")
            }
        })
        .collect();
    cells.join(" ").trim_end().to_owned()
}

/// A text in at most this many characters.
fn shortened(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(room.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The facts of a socket, and what to do next.
fn details(
    socket: &SocketReport,
    columns: &[(&Column, usize)],
    width: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    if let Some(reason) = &socket.reason {
        wrapped(reason, width, out)?;
    }
    wrapped(&facts(socket, columns), width, out)?;
    if let Some(next) = &socket.next {
        wrapped(&format!("to decide: {next}"), width, out)?;
    }
    Ok(())
}

/// TLS, buffers and the rest of TCP, and what there was no room for in the table.
fn facts(socket: &SocketReport, columns: &[(&Column, usize)]) -> String {
    let SocketReport {
        socket: ends,
        state,
        shared_with,
        tls,
        evidence,
        ..
    } = socket;
    let tcp = &evidence.tcp;
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    let timer = match &evidence.timer {
        Some(timer) => format!("{} timer in {} ms", timer.kind, timer.expires_ms),
        None => "no timer".to_owned(),
    };
    let mut parts = vec![format!(
        "{state}, TLS {} {} tx {} rx {}; cwnd {}, {timer}, lost {}, retransmitted {}, wmem {} of sndbuf {}",
        word(&tls.tls.version),
        word(&tls.tls.cipher),
        word(&tls.tls.tx),
        word(&tls.rx),
        known(tcp.tcp.snd_cwnd),
        known(tcp.tcp.lost),
        known(tcp.total_retrans),
        known(tcp.tcp.wmem_queued),
        known(tcp.tcp.sndbuf),
    )];
    for column in &COLUMNS {
        let cell = (column.cell)(socket);
        let room = columns
            .iter()
            .find(|(other, _)| other.title == column.title);
        if room.is_none_or(|(_, room)| cell.chars().count() > *room) {
            parts.push(format!("{} {cell}", column.title.to_lowercase()));
        }
    }
    if !shared_with.is_empty() {
        let others: Vec<String> = shared_with.iter().map(named).collect();
        parts.push(format!("shared with {}", others.join(", ")));
    }
    parts.extend(ends.netns.map(|netns| format!("netns {netns}")));
    parts.join("; ")
}

/// Counts by verdict, and what could not be seen.
fn summary(snapshot: &Snapshot, width: usize, out: &mut impl Write) -> io::Result<()> {
    let Counts {
        sockets,
        closed_meanwhile,
        verdicts,
        activities,
        ..
    } = &snapshot.counts;
    let found = match sockets {
        0 => "no kTLS socket".to_owned(),
        1 => "1 kTLS socket".to_owned(),
        more => format!("{more} kTLS sockets"),
    };
    let asked = snapshot
        .namespaces
        .iter()
        .filter(|place| place.sockets.is_some())
        .count();
    let place = match asked {
        0 | 1 => String::new(),
        more => format!(" in {more} network namespaces"),
    };
    let mut parts: Vec<String> = verdicts
        .iter()
        .map(|(verdict, count)| format!("{count} {}", name(verdict)))
        .collect();
    let suspects: Vec<_> = snapshot
        .sockets
        .iter()
        .filter(|socket| socket.verdict.is_some())
        .map(|socket| socket.activity)
        .collect();
    for (activity, count) in activities {
        let judged = suspects.iter().filter(|other| *other == activity).count();
        if count - judged > 0 {
            parts.push(format!("{} {}", count - judged, name(activity)));
        }
    }
    if *sockets == 0 && !snapshot.tls_module {
        parts.push("the tls module is not loaded".to_owned());
    }
    if *closed_meanwhile > 0 {
        parts.push(format!("{closed_meanwhile} closed meanwhile"));
    }
    let colon = if parts.is_empty() { "" } else { ": " };
    let passes = match snapshot.interval_ms {
        Some(ms) => format!("two passes {ms:.0} ms apart"),
        None => "one pass, so no rates".to_owned(),
    };
    let text = format!("{found}{place}{colon}{}; {passes}", parts.join(", "));
    hanging(&text, width, out)?;
    for line in &snapshot.cannot_see {
        hanging(&format!("not seen: {line}"), width, out)?;
    }
    Ok(())
}

fn verdict(socket: &SocketReport) -> String {
    match socket.verdict {
        Some(verdict) => name(&verdict),
        None => name(&socket.activity),
    }
}

fn process(socket: &SocketReport) -> String {
    let Some(process) = &socket.process else {
        return "?".to_owned();
    };
    match socket.shared_with.len() {
        0 => named(process),
        others => format!("{}+{others}", named(process)),
    }
}

fn named(process: &ProcessInfo) -> String {
    format!(
        "{}[{}]",
        process.comm.as_deref().unwrap_or("?"),
        process.pid
    )
}

fn connection(socket: &SocketReport) -> String {
    let end = |address: &Option<String>| address.clone().unwrap_or_else(|| "?".to_owned());
    format!("{} -> {}", end(&socket.socket.src), end(&socket.socket.dst))
}

fn known(number: Option<u32>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

/// A text in indented lines.
fn wrapped(text: &str, width: usize, out: &mut impl Write) -> io::Result<()> {
    for line in wrap(text, width, INDENT.len()) {
        writeln!(out, "{INDENT}{line}")?;
    }
    Ok(())
}

/// A text in lines, all but the first indented.
fn hanging(text: &str, width: usize, out: &mut impl Write) -> io::Result<()> {
    for (number, line) in wrap(text, width, INDENT.len()).iter().enumerate() {
        let indent = if number == 0 { "" } else { INDENT };
        writeln!(out, "{indent}{line}")?;
    }
    Ok(())
}

/// Lines of whole words that leave room for an indent.
fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let room = width.saturating_sub(indent);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests;
