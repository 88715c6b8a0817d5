//! Options of `run` from a file and from the environment, and `ktls-trace config` about the file.
//!
//! A key of the file is an option's long name. Whatever the file and the environment say is put before the words of
//! the command line and read by the same rules; of two the later one counts: file < environment < command line.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _, error::ErrorKind};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{cannot, run};

/// Where the service has its file.
pub(crate) const PATH: &str = "/etc/ktls-trace/config.toml";
/// Name of the verb whose options these are.
const VERB: &str = "run";
/// What the variables begin with: `KTLS_TRACE_POLL_INTERVAL`.
const PREFIX: &str = "KTLS_TRACE_";
/// Options that make no sense in a file.
const NOT_IN_FILE: [&str; 2] = ["config", "verbose"];

/// Check a configuration file, or show one with every option
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Say whether `run --config FILE` would take it; exit 2 with line and column if not
    Check {
        #[arg(default_value = PATH)]
        file: PathBuf,
    },
    /// Print a file that names every option and sets none
    Default,
}

/// Checks or prints.
pub(crate) fn about(args: &Args) -> ExitCode {
    match &args.verb {
        Verb::Check { file } => match words_of(file) {
            Ok(words) => match read_with(&words) {
                Ok(()) => {
                    println!("{}: fine", file.display());
                    ExitCode::SUCCESS
                }
                Err(why) => cannot("config", &format_args!("{}: {why}", file.display())),
            },
            Err(error) => cannot("config", &error),
        },
        Verb::Default => {
            print!("{}", default_file());
            ExitCode::SUCCESS
        }
    }
}

/// Why a file can't be used.
#[derive(Debug)]
pub(crate) enum Error {
    /// It can't be read.
    Read(PathBuf, io::Error),
    /// It says something wrong.
    Text {
        /// The file.
        path: PathBuf,
        /// Where, both from 1.
        line: usize,
        column: usize,
        /// What.
        what: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Text {
                path,
                line,
                column,
                what,
            } => write!(f, "{}:{line}:{column}: {what}", path.display()),
        }
    }
}

/// The words of a command line with those of the file and the environment put in front, if its verb is `run`.
pub(crate) fn layered(mut words: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    let Some(at) = words.iter().position(|word| word == VERB) else {
        return Ok(words);
    };
    // Whether they are right is seen when all of them are there.
    let matches = super::super::Command::command()
        .ignore_errors(true)
        .try_get_matches_from(&words);
    let Ok(matches) = matches else {
        return Ok(words);
    };
    let Some((VERB, run)) = matches.subcommand() else {
        return Ok(words);
    };
    let file = run
        .try_get_one::<PathBuf>("config")
        .ok()
        .flatten()
        .cloned()
        .or_else(|| std::env::var_os(variable("config")).map(PathBuf::from));
    let mut layers = match file {
        Some(path) => words_of(&path)?,
        None => Vec::new(),
    };
    layers.extend(words_of_environment());
    words.splice(at + 1..=at, layers);
    Ok(words)
}

/// The options of `run` as they are in all, by long name: each of several values as it was written.
pub(crate) type Values = BTreeMap<String, Vec<String>>;

/// Reads the words of a command line of `run` that has its layers.
///
/// # Errors
///
/// In a line, what is wrong.
pub(crate) fn read(words: &[OsString]) -> Result<(run::Args, Values), String> {
    let matches = super::super::Command::command()
        .try_get_matches_from(words)
        .map_err(|error| one_line(&error))?;
    let Some((VERB, of_run)) = matches.subcommand() else {
        return Err("this is no command line of `run`".to_owned());
    };
    let args = run::Args::from_arg_matches(of_run).map_err(|error| one_line(&error))?;
    let command = command();
    let values = options(&command).map(|(name, option)| {
        let raw = of_run
            .get_raw(option.get_id().as_str())
            .into_iter()
            .flatten();
        let text = |value: &OsStr| value.to_string_lossy().into_owned();
        (name.to_owned(), raw.map(text).collect())
    });
    Ok((args, values.collect()))
}

/// The command of the verb.
fn command() -> Command {
    let mut command = super::super::Command::command();
    command.build();
    command
        .find_subcommand(VERB)
        .cloned()
        .unwrap_or_else(|| Command::new(VERB))
}

/// The options that a file can set, by long name.
fn options(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    command
        .get_arguments()
        .filter_map(|option| Some((option.get_long()?, option)))
        .filter(|(name, _)| !NOT_IN_FILE.contains(name) && !["help", "version"].contains(name))
}

/// The environment variable of an option.
fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.replace('-', "_").to_uppercase())
}

/// What the environment sets.
fn words_of_environment() -> Vec<OsString> {
    let command = command();
    let set = options(&command).filter_map(|(name, _)| {
        let value = std::env::var_os(variable(name))?;
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        Some(word)
    });
    set.collect()
}

/// What a file sets.
fn words_of(path: &Path) -> Result<Vec<OsString>, Error> {
    let text = fs::read_to_string(path).map_err(|error| Error::Read(path.to_owned(), error))?;
    let at = |start: usize, what: String| {
        let before = text.get(..start).unwrap_or(&text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Error::Text {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what,
        }
    };
    let table = DeTable::parse(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        at(start, error.message().replace('\n', ", "))
    })?;
    let command = command();
    let mut words = Vec::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        let Some((_, option)) = options(&command).find(|(known, _)| *known == name) else {
            let what = format!("no option `{name}`; `ktls-trace config default` shows all");
            return Err(at(key.span().start, what));
        };
        let start = value.span().start;
        for word in words_of_option(name, option, value).map_err(|what| at(start, what))? {
            check(&command, &word).map_err(|what| at(start, what))?;
            words.push(word.into());
        }
    }
    Ok(words)
}

/// The words for one option.
fn words_of_option(
    name: &str,
    option: &Arg,
    value: &Spanned<DeValue<'_>>,
) -> Result<Vec<String>, String> {
    let repeatable = matches!(option.get_action(), ArgAction::Append);
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(format!("--{name}={text}")),
        DeValue::Integer(number) => Ok(format!("--{name}={}", number.as_str())),
        DeValue::Boolean(yes) => Ok(format!("--{name}={yes}")),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            Err(format!("`{name}` takes no {}", value.type_str()))
        }
    };
    match value.get_ref() {
        DeValue::Array(values) if repeatable => {
            values.iter().map(|value| one(value.get_ref())).collect()
        }
        value => Ok(vec![one(value)?]),
    }
}

/// Whether an option takes a value, seen for itself.
fn check(command: &Command, word: &str) -> Result<(), String> {
    match command.clone().try_get_matches_from([VERB, word]) {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict
            ) =>
        {
            Ok(()) // it depends on others
        }
        Err(error) => Err(one_line(&error)),
    }
}

/// Whether all of it together makes a run.
fn read_with(words: &[OsString]) -> Result<(), String> {
    let begin = ["ktls-trace", VERB].map(OsString::from);
    let (args, _) = read(&[&begin, words].concat())?;
    let options = args.options(false);
    options.map(drop).map_err(|error| format!("{error:#}"))
}

/// What is wrong, without how everything is used.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let text = lines.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// A file with every option as a comment.
fn default_file() -> String {
    let mut lines = vec![
        "# Options of `ktls-trace run`, by their names on the command line. The environment (KTLS_TRACE_THRESHOLD, …)"
            .to_owned(),
        "# counts for more than this file, the command line for more than both. Check with `ktls-trace config check FILE`."
            .to_owned(),
    ];
    let command = command();
    for (name, option) in options(&command) {
        lines.push(String::new());
        let help = option.get_help().map(ToString::to_string);
        lines.extend(
            help.unwrap_or_default()
                .lines()
                .map(|line| format!("# {line}")),
        );
        lines.push(format!("#{name} = {}", default_of(option)));
    }
    lines.join("\n") + "\n"
}

/// The value of an option that is not set, or what stands for one, as TOML.
fn default_of(option: &Arg) -> String {
    let default = option.get_default_values().first();
    match default.map(|value| value.to_string_lossy()) {
        Some(value) if ["true", "false"].contains(&&*value) || value.parse::<u64>().is_ok() => {
            value.into_owned()
        }
        Some(value) => format!("{value:?}"),
        None if matches!(option.get_action(), ArgAction::Append) => "[]".to_owned(),
        None => {
            let names = option.get_value_names().unwrap_or_default();
            format!("{:?}", names.first().map_or("", |name| name.as_str()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a file with this text, or what is wrong with it.
    fn words(text: &str) -> Result<Vec<String>, String> {
        let path = std::env::temp_dir().join(format!(
            "ktls-trace-config-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        fs::write(&path, text).unwrap();
        let words = words_of(&path).map_err(|error| {
            let text = error.to_string();
            text.split_once(':').unwrap().1.to_owned()
        });
        fs::remove_file(path).unwrap();
        let text = |word: OsString| word.into_string().unwrap();
        Ok(words?.into_iter().map(text).collect())
    }

    #[test]
    fn every_key_of_the_default_file_is_an_option() {
        let file = default_file();
        let keys: Vec<&str> = file
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' ') && line.contains(" = "))
            .collect();
        assert!(keys.len() > 20, "{file}");
        for key in keys {
            let read = words(key);
            assert!(
                !read.is_err_and(|error| error.contains("no option")),
                "{key}"
            );
        }
    }

    #[test]
    fn every_option_is_a_key_and_its_value_is_read_as_on_the_command_line() {
        let text = "threshold = \"30ms\"\nport = 443\nno-bpf = true\nwithout = [\"tls_push_sg\", \"sock_diag\"]\n";
        let mut words = words(text).unwrap();
        words.sort();
        let expected = [
            "--no-bpf=true",
            "--port=443",
            "--threshold=30ms",
            "--without=sock_diag",
            "--without=tls_push_sg",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_column() {
        for (text, expected) in [
            ("\n treshold = \"30ms\"\n", "2:2: no option `treshold`"),
            (
                "threshold = \"soon\"",
                "1:13: invalid value 'soon' for '--threshold <TIME>'",
            ),
            (
                "port = \"http\"",
                "1:8: invalid value 'http' for '--port <PORT>'",
            ),
            ("port = [80, 443]", "1:8: `port` takes no array"),
            ("port = 1.5", "1:8: `port` takes no float"),
            ("no-bpf = \"perhaps\"", "1:10: invalid value 'perhaps'"),
            ("[run]\nport = 80", "1:2: no option `run`"),
            ("port = 80\nport = 81", "2:1: duplicate key"),
            ("port = ", "1:8: "),
            ("config = \"x\"", "1:1: no option `config`"),
        ] {
            let error = words(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn the_default_file_names_every_option_and_each_of_its_lines_can_be_taken() {
        let text = default_file();
        assert!(words(&text).unwrap().is_empty());
        let command = command();
        for (name, option) in options(&command) {
            let begins = format!("#{name} = ");
            let line = text.lines().find(|line| line.starts_with(&begins));
            let line = line.unwrap_or_else(|| panic!("no line of {name}"));
            // What stands for a value that is not set is none.
            if !option.get_default_values().is_empty() {
                words(&line[1..]).unwrap();
            }
        }
    }
}
