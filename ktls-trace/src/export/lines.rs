//! Lines to a file or to stdout, as JSON Lines or as text for people.
//!
//! Lines are whole or not there: what a full disk cut short is taken back, and counted.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Seek, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Destination;
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

/// How a file is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Begin a new file when this one has become longer than so many bytes.
    pub rotate_bytes: Option<u64>,
    /// How many old ones are kept, as `FILE.1` (the youngest), `FILE.2` and so on.
    pub old_files: u32,
    /// Whether each event is on the disk (`fdatasync`) before the next is written.
    pub sync: bool,
    /// Whether a FIFO that nobody reads is an error at first, and not waited for.
    pub at_once: bool,
}

/// An output.
#[derive(Debug)]
pub struct Lines {
    /// In which form.
    format: Format,
    /// The file, or stdout.
    target: Target,
    /// Whether the last event was lost.
    failing: bool,
}

/// Where lines go.
#[derive(Debug)]
enum Target {
    /// Standard output, and whether it shows colours.
    Stdout(bool),
    /// A file.
    File(Kept),
}

/// A file that is kept in a certain way.
#[derive(Debug)]
struct Kept {
    /// The file.
    file: File,
    /// Where it is, for when it is opened anew.
    path: PathBuf,
    /// How.
    keeping: Keeping,
    /// Whether the last attempt to begin a new one failed.
    stuck: bool,
}

impl Destination for Lines {
    fn place(&self) -> &'static str {
        "output"
    }

    fn write(&mut self, event: &Event) -> Written {
        Self::write(self, event)
    }

    fn reopen(&mut self) -> Result<(), String> {
        Self::reopen(self).map_err(|error| error.to_string())
    }
}

impl Lines {
    /// Lines to standard output, with colours if a terminal shows them (and `NO_COLOR` is not set).
    pub fn stdout(format: Format) -> Self {
        let colours = format == Format::Text
            && io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            format,
            target: Target::Stdout(colours),
            failing: false,
        }
    }

    /// Lines appended to a file, which is created at once.
    ///
    /// # Errors
    ///
    /// If the file can't be opened for writing.
    pub fn file(path: &Path, format: Format, keeping: Keeping) -> Result<Self, Error> {
        let kept = Kept {
            file: open(path, keeping.at_once)?,
            path: path.to_owned(),
            keeping,
            stuck: false,
        };
        Ok(Self {
            format,
            target: Target::File(kept),
            failing: false,
        })
    }

    /// Opens the file anew, after somebody moved it away.
    ///
    /// # Errors
    ///
    /// If that fails; the old file stays in use.
    pub fn reopen(&mut self) -> Result<(), Error> {
        if let Target::File(kept) = &mut self.target {
            kept.file = open(&kept.path, false)?;
        }
        Ok(())
    }

    /// Writes an event.
    pub fn write(&mut self, event: &Event) -> Written {
        let text = match self.format {
            Format::Text => Ok(match self.target {
                Target::Stdout(true) => report::text::coloured(event),
                Target::Stdout(false) | Target::File(_) => report::text::event(event),
            }),
            Format::JsonLines => serde_json::to_string(event).map(|line| line + "\n"),
        };
        let written = text
            .map_err(io::Error::from)
            .and_then(|text| match &mut self.target {
                Target::Stdout(_) => {
                    let mut stdout = io::stdout().lock();
                    stdout
                        .write_all(text.as_bytes())
                        .and_then(|()| stdout.flush())
                }
                Target::File(kept) => kept.append(text.as_bytes()),
            });
        match written {
            Ok(()) => {
                self.failing = false;
                Written::Yes
            }
            Err(error) if self.reader_is_gone(&error) => Written::ReaderGone,
            Err(error) => {
                if std::mem::replace(&mut self.failing, true) {
                    Written::StillLost
                } else {
                    Written::Lost(match &self.target {
                        Target::Stdout(_) => format!("cannot write to stdout: {error}"),
                        Target::File(kept) => {
                            format!("cannot write to {}: {error}", kept.path.display())
                        }
                    })
                }
            }
        }
    }

    /// Whether an error says that nobody reads any more: a pipe without a reader, or a terminal that was hung up.
    fn reader_is_gone(&self, error: &io::Error) -> bool {
        let hung_up =
            matches!(self.target, Target::Stdout(_)) && error.raw_os_error() == Some(libc::EIO);
        hung_up || error.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Kept {
    /// Appends a line, and begins a new file if this one has become too long.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        append(&mut self.file, line)?;
        if self.keeping.sync {
            // What is no file has no disk.
            match self.file.sync_data() {
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        if let Some(limit) = self.keeping.rotate_bytes
            && self
                .file
                .metadata()
                .is_ok_and(|file| file.is_file() && file.len() > limit)
        {
            let begun = self.begin_new();
            if let Err(error) = &begun
                && !self.stuck
            {
                let path = self.path.display();
                tracing::error!(
                    "{path}: no new file can be begun, going on with this one: {error}"
                );
            }
            self.stuck = begun.is_err();
        }
        Ok(())
    }

    /// Moves this file and the older ones one number on, and begins a new one.
    fn begin_new(&mut self) -> io::Result<()> {
        let old = self.keeping.old_files;
        for number in (1..old).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        if old == 0 {
            fs::remove_file(&self.path)?;
        } else {
            fs::rename(&self.path, self.numbered(1))?;
        }
        self.file = open(&self.path, false).map_err(|error| error.source)?;
        Ok(())
    }

    /// The path of an old file.
    fn numbered(&self, number: u32) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(format!(".{number}"));
        path.into()
    }
}

/// Opens a file for appending. A line that was cut short when its writer was killed is ended, so that it does not spoil
/// the next one.
fn open(path: &Path, at_once: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    if at_once {
        options.custom_flags(libc::O_NONBLOCK);
    }
    let opened = options.open(path);
    opened
        .and_then(|mut file| {
            if at_once {
                // What is written may wait.
                fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
            }
            if file.metadata()?.is_file() && ends_within_a_line(path)? {
                file.write_all(b"\n")?;
            }
            Ok(file)
        })
        .map_err(|source| Error {
            path: path.to_owned(),
            source,
        })
}

/// Whether the last byte of a file is not the end of a line. One that may not be read is taken for whole.
fn ends_within_a_line(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        Err(error) => return Err(error),
    };
    let Some(last) = file.metadata()?.len().checked_sub(1) else {
        return Ok(false);
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
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

    fn lines(path: &Path, keeping: Keeping) -> Lines {
        Lines::file(path, Format::JsonLines, keeping).unwrap()
    }

    /// A fresh folder.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir();
        let folder = folder.join(format!("ktls-trace-lines-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = Lines::file(
            Path::new("/nonexistent/x"),
            Format::Text,
            Keeping::default(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_not_waited_for_where_that_would_hold_a_run() {
        let folder = folder("fifo");
        let path = folder.join("events");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let keeping = Keeping {
            at_once: true,
            ..Keeping::default()
        };
        let open = || Lines::file(&path, Format::JsonLines, keeping);
        let error = open().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        assert!(matches!(open().unwrap().write(&event()), Written::Yes));
        let mut line = [0; 9];
        io::Read::read_exact(&mut reader, &mut line).unwrap();
        assert_eq!(&line, b"{\"schema\"");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_full_disk_loses_whole_lines_and_says_so_once() {
        let mut lines = lines(Path::new("/dev/full"), Keeping::default());
        assert!(matches!(lines.write(&event()), Written::Lost(why) if why.contains("/dev/full")));
        assert!(matches!(lines.write(&event()), Written::StillLost));
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = folder("moved");
        let (path, moved) = (folder.join("events"), folder.join("events.1"));
        let mut lines = lines(&path, Keeping::default());
        assert!(matches!(lines.write(&event()), Written::Yes));
        fs::rename(&path, &moved).unwrap();
        lines.reopen().unwrap();
        assert!(matches!(lines.write(&event()), Written::Yes));
        for file in [&path, &moved] {
            assert_eq!(fs::read_to_string(file).unwrap().lines().count(), 1);
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_has_become_too_long_is_put_away_and_so_many_are_kept() {
        let folder = folder("rotated");
        let path = folder.join("events");
        let keeping = Keeping {
            rotate_bytes: Some(300),
            old_files: 2,
            sync: true,
            at_once: false,
        };
        let mut lines = lines(&path, keeping);
        for _ in 0..20 {
            assert!(matches!(lines.write(&event()), Written::Yes));
        }
        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["events", "events.1", "events.2"]);
        for name in ["events.1", "events.2"] {
            let text = fs::read_to_string(folder.join(name)).unwrap();
            assert!(text.len() > 300 && text.ends_with("}\n"), "{text}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn if_no_new_file_can_be_begun_the_old_one_goes_on() {
        let folder = folder("stuck");
        let path = folder.join("events");
        // A folder can't be replaced by a file.
        fs::create_dir_all(folder.join("events.1/x")).unwrap();
        let keeping = Keeping {
            rotate_bytes: Some(1),
            old_files: 1,
            sync: false,
            at_once: false,
        };
        let mut lines = lines(&path, keeping);
        for _ in 0..3 {
            assert!(matches!(lines.write(&event()), Written::Yes));
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_line_that_was_cut_short_does_not_spoil_the_next() {
        let folder = folder("cut");
        let path = folder.join("events");
        fs::write(&path, "{\"whole\":1}\n{\"cut").unwrap();
        let mut lines = lines(&path, Keeping::default());
        assert!(matches!(lines.write(&event()), Written::Yes));
        let text = fs::read_to_string(&path).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("{\"schema\""), "{text}");
        assert_eq!(text.lines().count(), 3);
        fs::remove_dir_all(&folder).unwrap();
    }
}
