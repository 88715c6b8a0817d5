//! `ktls-trace schema`: the JSON Schema of the events.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use ktls_trace::correlate::event::Event;

/// Print the JSON Schema of the events (`ktls-trace/1`)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints the schema.
pub(crate) fn run() -> ExitCode {
    let schema = schemars::schema_for!(Event);
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
