//! `ktls-trace doctor`: what this host supports, which hook serves which observation, and which of
//! its settings are risky.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use ktls_trace::{
    kernel::{
        Facts, Plan, btf, capabilities,
        modules::{self, Tls},
        plan::Choice,
        symbols::Symbols,
        sysctl::Settings,
        without::{self, Without},
    },
    probe::{self, Verified},
    sockdiag::{SockDiag, Wanted},
};
use ktls_trace_common::layout::Layout;
use serde::Serialize;

use super::{CANNOT, cannot};

/// Exit status when something can't be observed.
const DEGRADED: u8 = 1;

/// Say what this host supports, which hook serves which observation, and which settings are risky
///
/// Exit status: 0 everything can be observed, 1 some facts can't, 2 nothing can.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Also have the kernel verify every eBPF program; none is attached
    #[arg(long)]
    verify: bool,
    /// Do without this function, member (as `tcp_sock.nonagle`), `sock_diag` or `fentry` (can be repeated)
    #[arg(long, value_name = "NAME")]
    without: Vec<without::Item>,
    /// Read the kernel's types from this folder (files vmlinux and tls)
    #[arg(long, default_value = btf::DIRECTORY, value_name = "DIR")]
    btf: PathBuf,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    /// `full`, `degraded` or `cannot-run`.
    verdict: &'static str,
    /// Release of the kernel.
    kernel: String,
    /// State of kernel TLS.
    tls: Tls,
    /// Members and arguments that BTF lacks; null without BTF.
    btf_missing: Option<Vec<&'static str>>,
    /// Whether addresses of functions are shown, to tell who lets held bytes go.
    symbols_with_addresses: bool,
    /// Capabilities that are needed and not there.
    capabilities_missing: Vec<String>,
    /// What missing capabilities cost beside the hooks.
    losses: Vec<String>,
    /// Why `sock_diag` can't be asked; null if it can.
    sock_diag: Option<String>,
    /// What keeps every hook from being used.
    obstacle: Option<String>,
    /// Which hook serves which observation.
    plan: Vec<Choice>,
    /// The two gates' settings.
    settings: Settings,
    /// What is risky in them.
    risks: Vec<String>,
    /// What the verifier says of each program; null unless asked for.
    programs: Option<Vec<Verified>>,
}

/// Looks and prints.
pub(crate) fn run(args: &Args) -> ExitCode {
    let findings = match look(args) {
        Ok(findings) => findings,
        Err(error) => return cannot("doctor", &error),
    };
    let mut out = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer(&mut out, &findings)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        print(&findings, &mut out)
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return cannot("doctor", &format_args!("cannot write: {error}"));
        }
        Ok(()) | Err(_) => {}
    }
    match findings.verdict {
        "full" => ExitCode::SUCCESS,
        "degraded" => ExitCode::from(DEGRADED),
        _ => ExitCode::from(CANNOT),
    }
}

/// Looks at the host.
fn look(args: &Args) -> io::Result<Findings> {
    let without: Without = args.without.iter().cloned().collect();
    let facts = Facts::gather(&args.btf, &without);
    let plan = Plan::new(&facts, &without.functions);
    let settings = Settings::read();
    let capabilities_missing = capabilities::missing();
    // The netlink socket is registered with the runtime when it is opened.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let sock_diag = runtime
        .block_on(async { SockDiag::open()?.dump(Wanted::ktls()).await.map(drop) })
        .err()
        .map(|error| error.to_string());
    let hooks = plan.obstacle.is_none() && !capabilities_missing.iter().any(|name| is_bpf(name));
    let programs = args.verify.then(|| verified(&facts, &plan));
    let refused = programs
        .iter()
        .flatten()
        .any(|program| program.error.is_some());
    let symbols_with_addresses = facts.symbols.as_ref().is_ok_and(Symbols::shows_addresses);
    let btf_missing = facts.layout.as_ref().ok().map(|resolved| {
        // What belongs to a module that is not loaded is not missing.
        let loaded = |name: &&'static str| resolved.tls || !name.starts_with("tls_");
        resolved.missing.iter().copied().filter(loaded).collect()
    });
    let losses = capabilities::losses(true, false, false);
    let full = hooks
        && !refused
        && plan.unserved().is_empty()
        && btf_missing.as_ref().is_some_and(Vec::is_empty)
        && symbols_with_addresses
        && sock_diag.is_none()
        && capabilities_missing.is_empty()
        && losses.is_empty();
    let verdict = match (full, hooks || sock_diag.is_none()) {
        (true, _) => "full",
        (false, true) => "degraded",
        (false, false) => "cannot-run",
    };
    Ok(Findings {
        verdict,
        kernel: facts.release,
        tls: facts.tls,
        btf_missing,
        symbols_with_addresses,
        capabilities_missing,
        losses,
        sock_diag,
        obstacle: plan.obstacle.map(|obstacle| obstacle.to_string()),
        plan: plan.choices,
        risks: settings.risks(),
        settings,
        programs,
    })
}

/// Has the kernel verify every program.
fn verified(facts: &Facts, plan: &Plan) -> Vec<Verified> {
    let layout = facts
        .layout
        .as_ref()
        .map_or(Layout::ABSENT, |resolved| resolved.layout);
    probe::verify(layout, &plan.hooks()).unwrap_or_else(|error| {
        vec![Verified {
            program: "the object as a whole".to_owned(),
            instructions: None,
            error: Some(error.to_string()),
        }]
    })
}

/// Whether a capability is needed for hooks.
fn is_bpf(name: &str) -> bool {
    name != "CAP_NET_ADMIN"
}

/// Prints the findings for people.
fn print(findings: &Findings, out: &mut impl Write) -> io::Result<()> {
    let yes = |fine: bool| if fine { "ok" } else { "--" };
    writeln!(out, "kernel {}", findings.kernel)?;
    match findings.tls {
        Tls::Present => writeln!(out, "  ok  kernel TLS is there")?,
        Tls::NotLoaded if modules::tls_is_installed(&findings.kernel) => {
            writeln!(
                out,
                "  ok  kernel TLS is not loaded: no socket uses it; hooks attach when it is"
            )?;
        }
        Tls::NotLoaded => writeln!(out, "  ok  kernel TLS is neither loaded nor found on disk")?,
    }
    match &findings.btf_missing {
        Some(missing) if missing.is_empty() => writeln!(out, "  ok  BTF has every member needed")?,
        Some(missing) => writeln!(out, "  --  BTF lacks {}", missing.join(", "))?,
        None => writeln!(out, "  --  no BTF")?,
    }
    writeln!(
        out,
        "  {}  addresses of kernel functions are {}",
        yes(findings.symbols_with_addresses),
        if findings.symbols_with_addresses {
            "shown"
        } else {
            "hidden: who lets held bytes go stays unknown"
        }
    )?;
    match findings.capabilities_missing.as_slice() {
        [] => writeln!(out, "  ok  capabilities are sufficient")?,
        missing => writeln!(
            out,
            "  --  missing {}: run as root, or grant them",
            missing.join(", ")
        )?,
    }
    for loss in &findings.losses {
        writeln!(out, "  --  {loss}")?;
    }
    match &findings.sock_diag {
        None => writeln!(out, "  ok  sock_diag answers")?,
        Some(error) => writeln!(out, "  --  sock_diag: {error}")?,
    }
    if let Some(obstacle) = &findings.obstacle {
        writeln!(out, "  --  no hook can be used: {obstacle}")?;
    }
    print_plan(findings, out)?;
    writeln!(out, "\nsettings of this network namespace")?;
    let known = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let Settings {
        tcp_notsent_lowat,
        tcp_wmem,
        wmem_max,
    } = findings.settings;
    writeln!(
        out,
        "  net.ipv4.tcp_notsent_lowat   {}",
        known(tcp_notsent_lowat.map(u64::from))
    )?;
    let wmem = tcp_wmem.map_or_else(|| "?".to_owned(), |[a, b, c]| format!("{a} {b} {c}"));
    writeln!(out, "  net.ipv4.tcp_wmem            {wmem}")?;
    writeln!(out, "  net.core.wmem_max            {}", known(wmem_max))?;
    for risk in &findings.risks {
        writeln!(out, "  risky: {risk}")?;
    }
    if let Some(programs) = &findings.programs {
        writeln!(out, "\nprogram                          verifier")?;
        for Verified {
            program,
            instructions,
            error,
        } in programs
        {
            let said = match (error, instructions) {
                (Some(error), _) => format!("refused: {error}"),
                (None, Some(count)) => format!("accepted, {count} instructions"),
                (None, None) => "accepted".to_owned(),
            };
            writeln!(out, "  {program:<31}{said}")?;
        }
    }
    writeln!(out, "\n{}", findings.verdict)
}

/// Prints which hook serves which observation.
fn print_plan(findings: &Findings, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nobservation                      served by")?;
    for choice in &findings.plan {
        let served = findings.obstacle.is_none() && !choice.hooks.is_empty();
        let symbols: Vec<_> = choice
            .hooks
            .iter()
            .map(|hook| format!("{hook} by {}", hook.kind.name()))
            .collect();
        let hot = choice.hooks.iter().all(|hook| hook.hot);
        let symbols = if served {
            format!("{}{}", symbols.join(", "), if hot { " (hot)" } else { "" })
        } else {
            "nothing".to_owned()
        };
        writeln!(out, "  {:<31}{symbols}", choice.observable)?;
        let why = if served {
            choice.why.as_str()
        } else {
            choice.loss()
        };
        writeln!(out, "  {:<31}  {why}", "")?;
    }
    writeln!(
        out,
        "  (hot): a healthy host runs it all the time; `run --probes auto` attaches it only while there is a stall"
    )
}
