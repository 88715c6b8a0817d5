//! Runs external tools, with errors that name the command and show what it said.

use std::{
    env,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The cargo that runs us. What it set for our own build is not for another package's build script.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env_remove("CARGO_MANIFEST_DIR");
    command
}

/// Runs to the end with output captured; what the tool printed on stdout. An error shows its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!(
            "{} failed ({status}):\n{}",
            shown(command),
            tail(stderr.trim(), 15)
        );
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Whether the tool can be started and ends with status 0; what it prints is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs to the end with our own stderr, its stdout going there too: progress belongs on stderr.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// The command as a person would type it, without options that only name our private directories.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    let mut arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        if argument == "-o" {
            arguments.next();
        } else {
            words.push(argument);
        }
    }
    format!("`{}`", words.join(" "))
}

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> &str {
    let Some((start, _)) = text.rmatch_indices('\n').nth(lines.saturating_sub(1)) else {
        return text;
    };
    &text[start + 1..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a\nb", 5), "a\nb");
        assert_eq!(tail("", 5), "");
    }

    #[test]
    fn a_failing_tool_is_named_with_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no such suite >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("no such suite"),
            "{error}"
        );
    }
}
