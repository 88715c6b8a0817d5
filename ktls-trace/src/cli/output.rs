//! Where events go and in which form: the same words for every verb that writes events.

use std::path::PathBuf;

use clap::ValueEnum;
use ktls_trace::export::{Error, Format, Keeping, Lines};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Where events go: a file, or - for stdout
    #[arg(long, default_value = "-", value_name = "FILE|-")]
    pub(crate) output: PathBuf,
    /// In which form
    #[arg(long, value_enum, default_value = "text")]
    format: FormatName,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    /// For people
    Text,
    /// One JSON object a line, schema ktls-trace/1
    Jsonl,
}

impl Output {
    /// Opens it.
    pub(crate) fn lines(&self, keeping: Keeping) -> Result<Lines, Error> {
        let format = match self.format {
            FormatName::Text => Format::Text,
            FormatName::Jsonl => Format::JsonLines,
        };
        if self.is_stdout() {
            Ok(Lines::stdout(format))
        } else {
            Lines::file(&self.output, format, keeping)
        }
    }

    /// Whether it is standard output.
    pub(crate) fn is_stdout(&self) -> bool {
        self.output.as_os_str() == "-"
    }
}
