//! `ktls-trace man` and `ktls-trace completions`: manual pages and completions, made from the command line itself.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::cannot;

/// Print the manual page, or write it and those of all verbs to a folder
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The folder
    folder: Option<PathBuf>,
}

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

/// Writes manual pages.
pub(crate) fn man(args: &ManArgs) -> ExitCode {
    let command = super::super::Command::command();
    let written = if let Some(folder) = &args.folder {
        clap_mangen::generate_to(command, folder)
            .map_err(|error| format!("cannot write to {}: {error}", folder.display()))
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| error.to_string())
            .and_then(|()| to_stdout(&page))
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => cannot("man", &why),
    }
}

/// Prints completions.
pub(crate) fn completions(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    let mut command = super::super::Command::command();
    clap_complete::generate(args.shell, &mut command, "ktls-trace", &mut script);
    match to_stdout(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => cannot("completions", &why),
    }
}

/// Prints; whoever reads may have had enough.
fn to_stdout(bytes: &[u8]) -> Result<(), String> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
