//! `ktls-trace report`: a recording as a page for people.

use std::{
    fs,
    io::{self, Write as _},
    ops::ControlFlow,
    path::PathBuf,
    process::ExitCode,
};

use ktls_trace::{
    observe::recording::{Replayed, replay},
    report::html::{About, Page},
};

use super::{
    cannot,
    replay::{open, spare},
};

/// Write what a recording tells as one page of HTML, to be kept or sent
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file that `ktls-trace run --record` made
    file: PathBuf,
    /// Write to this file; `-` is standard output
    #[arg(long, short, default_value = "-", value_name = "FILE|-")]
    output: PathBuf,
}

/// Writes the page.
pub(crate) fn run(args: &Args) -> ExitCode {
    let mut reader = match open("report", &args.file) {
        Ok(reader) => reader,
        Err(code) => return code,
    };
    let to_stdout = args.output.as_os_str() == "-";
    let name = args.file.display();
    if !to_stdout && let Err(code) = spare("report", &args.file, &args.output) {
        return code;
    }
    let mut page = Page::default();
    let replayed = replay(&mut reader, |event| {
        page.note(event);
        ControlFlow::Continue(())
    });
    let (incomplete, damage) = match &replayed {
        Ok(Replayed::ToTheEnd(end)) if end.full => {
            (Some("the recording had reached its limit".to_owned()), None)
        }
        Ok(_) => (None, None),
        Err(error) => (Some(format!("the recording {error}")), Some(error)),
    };
    let header = reader.header();
    let text = page.render(&About {
        title: args.file.file_name().map_or_else(
            || name.to_string(),
            |name| name.to_string_lossy().into_owned(),
        ),
        made_by: header.made_by.clone(),
        anonymized: header.anonymized,
        incomplete,
    });
    let written = if to_stdout {
        io::stdout().lock().write_all(text.as_bytes())
    } else {
        fs::write(&args.output, text)
    };
    match (written, damage) {
        // Whoever reads has had enough.
        (Err(error), _) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        (Err(error), _) => {
            let output = args.output.display();
            cannot("report", &format_args!("cannot write to {output}: {error}"))
        }
        (Ok(()), Some(error)) => cannot("report", &format_args!("{name} {error}")),
        (Ok(()), None) => ExitCode::SUCCESS,
    }
}
