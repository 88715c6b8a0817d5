//! Lines to a file or to stdout, as JSON Lines or as text for people.
//!
//! Lines are whole or not there: what a full disk cut short is taken back, and counted.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::{correlate::event::Event, report};

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    JsonLines,
}

/// Why an output can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {}: {source}", path.display())]
pub struct Error {
    /// The file.
    path: PathBuf,
    /// What went wrong.
    source: io::Error,
}

/// What became of an event.
#[derive(Debug)]
pub enum Written {
    /// It is written.
    Yes,
    /// It is lost, and this is the first loss in a row: say so.
    Lost(String),
    /// It is lost, like the one before.
    StillLost,
    /// Nobody reads any more.
    ReaderGone,
}

/// An output.
#[derive(Debug)]
pub struct Lines {
    /// In which form.
    format: Format,
    /// The file, or stdout.
    target: Target,
    /// Events lost so far.
    lost: u64,
    /// Whether the last event was lost.
    failing: bool,
}

/// Where lines go.
#[derive(Debug)]
enum Target {
    /// Nowhere: whoever runs the daemon listens itself.
    Nowhere,
    /// Standard output.
    Stdout,
    /// A file, with its path for when it is opened anew.
    File(File, PathBuf),
}

impl Lines {
    /// Lines that nobody wants.
    pub fn nowhere() -> Self {
        Self {
            format: Format::Text,
            target: Target::Nowhere,
            lost: 0,
            failing: false,
        }
    }

    /// Lines to standard output.
    pub fn stdout(format: Format) -> Self {
        Self {
            format,
            target: Target::Stdout,
            lost: 0,
            failing: false,
        }
    }

    /// Lines appended to a file, which is created at once.
    ///
    /// # Errors
    ///
    /// If the file can't be opened for writing.
    pub fn file(path: &Path, format: Format) -> Result<Self, Error> {
        let target = Target::File(open(path)?, path.to_owned());
        Ok(Self {
            format,
            target,
            lost: 0,
            failing: false,
        })
    }

    /// Opens the file anew, after somebody moved it away.
    ///
    /// # Errors
    ///
    /// If that fails; the old file stays in use.
    pub fn reopen(&mut self) -> Result<(), Error> {
        if let Target::File(file, path) = &mut self.target {
            *file = open(path)?;
        }
        Ok(())
    }

    /// Events lost so far because they could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes an event.
    pub fn write(&mut self, event: &Event) -> Written {
        let text = match self.format {
            Format::Text => Ok(report::text::event(event)),
            Format::JsonLines => serde_json::to_string(event).map(|line| line + "\n"),
        };
        let written = text
            .map_err(io::Error::from)
            .and_then(|text| match &mut self.target {
                Target::Nowhere => Ok(()),
                Target::Stdout => {
                    let mut stdout = io::stdout().lock();
                    stdout
                        .write_all(text.as_bytes())
                        .and_then(|()| stdout.flush())
                }
                Target::File(file, _) => append(file, text.as_bytes()),
            });
        match written {
            Ok(()) => {
                self.failing = false;
                Written::Yes
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Written::ReaderGone,
            Err(error) => {
                self.lost += 1;
                if std::mem::replace(&mut self.failing, true) {
                    Written::StillLost
                } else {
                    Written::Lost(match &self.target {
                        Target::Nowhere | Target::Stdout => {
                            format!("cannot write to stdout: {error}")
                        }
                        Target::File(_, path) => {
                            format!("cannot write to {}: {error}", path.display())
                        }
                    })
                }
            }
        }
    }
}

/// Opens a file for appending.
fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| Error {
            path: path.to_owned(),
            source,
        })
}

/// Appends all of it or nothing.
fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let start = file.seek(SeekFrom::End(0));
    file.write_all(bytes).inspect_err(|_| {
        // A pipe or device has no length to go back to, and then nothing can be done.
        if let Ok(start) = start {
            let _cannot_take_back = file.set_len(start);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::event::{Body, Lost, Name};

    fn event() -> Event {
        let lost = Lost {
            place: "ring-buffer".to_owned(),
            count: 1,
            total: 1,
        };
        Event::new(Name::Lost, 0, Body::Lost(lost))
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = Lines::file(Path::new("/nonexistent/x"), Format::Text).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
    }

    #[test]
    fn a_full_disk_loses_whole_lines_and_says_so_once() {
        let mut lines = Lines::file(Path::new("/dev/full"), Format::JsonLines).unwrap();
        assert!(matches!(lines.write(&event()), Written::Lost(why) if why.contains("/dev/full")));
        assert!(matches!(lines.write(&event()), Written::StillLost));
        assert_eq!(lines.lost(), 2);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = std::env::temp_dir().join(format!("ktls-trace-lines-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, moved) = (folder.join("events"), folder.join("events.1"));
        let mut lines = Lines::file(&path, Format::JsonLines).unwrap();
        assert!(matches!(lines.write(&event()), Written::Yes));
        std::fs::rename(&path, &moved).unwrap();
        lines.reopen().unwrap();
        assert!(matches!(lines.write(&event()), Written::Yes));
        for file in [&path, &moved] {
            assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 1);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
