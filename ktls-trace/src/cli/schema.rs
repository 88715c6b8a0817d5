//! `ktls-trace schema`: the JSON Schema of what ktls-trace writes.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::ValueEnum;
use ktls_trace::{confirm::Findings, correlate::event::Event, snapshot::document::Snapshot};

/// Print the JSON Schema of the events (`ktls-trace/1`), or of another output
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of what
    #[arg(value_enum, default_value = "events", value_name = "OUTPUT")]
    of: Output,
}

/// What has a schema.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// The events of `run` (ktls-trace/1)
    Events,
    /// The output of `snapshot --json` (ktls-trace/1)
    Snapshot,
    /// The findings of `confirm --json` (ktls-trace-confirm/1)
    Confirm,
}

/// Prints the schema.
pub(crate) fn run(args: &Args) -> ExitCode {
    let schema = match args.of {
        Output::Events => schemars::schema_for!(Event),
        Output::Snapshot => schemars::schema_for!(Snapshot),
        Output::Confirm => schemars::schema_for!(Findings),
    };
    let written = serde_json::to_string_pretty(&schema)
        .map_err(io::Error::from)
        .and_then(|text| writeln!(io::stdout().lock(), "{text}"));
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            super::cannot("schema", &format_args!("cannot write the schema: {error}"))
        }
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}
