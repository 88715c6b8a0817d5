//! `ktls-trace schema`: the JSON Schema of what ktls-trace writes, and the same as tables.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::ValueEnum;
use ktls_trace::{
    confirm::Findings, correlate::event::Event, report::tables, snapshot::document::Snapshot,
};
use schemars::{JsonSchema, generate::SchemaSettings};

/// Print the JSON Schema of the events (`ktls-trace/1`), or of another output
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of what
    #[arg(value_enum, default_value = "events", value_name = "OUTPUT")]
    of: Output,
    /// As tables in Markdown: every field with its type, unit and meaning
    #[arg(long)]
    markdown: bool,
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
        Output::Events => written::<Event>(),
        Output::Snapshot => written::<Snapshot>(),
        Output::Confirm => written::<Findings>(),
    };
    let text = if args.markdown {
        Ok(tables::of(&schema))
    } else {
        serde_json::to_string_pretty(&schema).map(|text| text + "\n")
    };
    let written = text
        .map_err(io::Error::from)
        .and_then(|text| io::stdout().lock().write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            super::cannot("schema", &format_args!("cannot write the schema: {error}"))
        }
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// The schema of what is written, not of what would be read: a field that is always there is required, null or not.
fn written<T: JsonSchema>() -> serde_json::Value {
    SchemaSettings::default()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}
