//! `ktls-trace replay`: tells the events of a recording again, on any machine.

use std::{
    fs::{self, File},
    io::BufReader,
    ops::ControlFlow,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ktls_trace::{
    export::{Keeping, Written},
    observe::recording::{Reader, Replayed, replay},
};

use super::{cannot, output::Output, say};

/// Tell the events of a recording again, as `run --record` saw them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file that `ktls-trace run --record` made
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Replays.
pub(crate) fn run(args: &Args) -> ExitCode {
    let name = args.file.display();
    let mut reader = match open("replay", &args.file) {
        Ok(reader) => reader,
        Err(code) => return code,
    };
    if !args.output.is_stdout() {
        if let Err(code) = spare("replay", &args.file, &args.output.output) {
            return code;
        }
        // A second replay replaces the first; whatever is no file stays as it is.
        if let Ok(file) = File::options().write(true).open(&args.output.output) {
            drop(file.set_len(0));
        }
    }
    let mut lines = match args.output.lines(Keeping::default()) {
        Ok(lines) => lines,
        Err(error) => return cannot("replay", &error),
    };
    let mut lost = None;
    let replayed = replay(&mut reader, |event| match lines.write(event) {
        Written::Yes => ControlFlow::Continue(()),
        // Whoever reads has had enough; after a loss nothing is written.
        Written::ReaderGone | Written::StillLost => ControlFlow::Break(()),
        Written::Lost(why) => {
            lost = Some(why);
            ControlFlow::Break(())
        }
    });
    match (replayed, lost) {
        (_, Some(why)) => cannot("replay", &why),
        (Err(error), None) => cannot("replay", &format_args!("{name} {error}")),
        (Ok(Replayed::ToTheEnd(end)), None) if end.full => {
            say(format_args!(
                "ktls-trace replay: {name} had reached its limit: what came later is not in it"
            ));
            ExitCode::SUCCESS
        }
        (Ok(_), None) => ExitCode::SUCCESS,
    }
}

/// Opens a recording, or says in one line why `verb` can't.
pub(super) fn open(verb: &str, path: &Path) -> Result<Reader<BufReader<File>>, ExitCode> {
    let name = path.display();
    let file = File::open(path)
        .map_err(|error| cannot(verb, &format_args!("cannot read {name}: {error}")))?;
    Reader::new(BufReader::new(file)).map_err(|error| cannot(verb, &format_args!("{name} {error}")))
}

/// Says in one line that `verb` can't, if its output is the recording itself.
pub(super) fn spare(verb: &str, recording: &Path, output: &Path) -> Result<(), ExitCode> {
    if !is_same_file(recording, output) {
        return Ok(());
    }
    let name = recording.display();
    let why = format_args!("{name} is the recording itself: name another output");
    Err(cannot(verb, &why))
}

/// Whether two paths name one file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    match (identity(one), identity(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
