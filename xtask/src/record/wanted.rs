//! What a recording has to contain: `ktls-trace/tests/kernels/wanted`, which the daemon's tests hold against its code.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// The file's contents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Paths of structures that keep their members, such as `sock.__sk_common`.
    pub(crate) structures: BTreeSet<String>,
    /// Structures that keep one member only, as `task_struct.nsproxy`.
    pub(crate) members: BTreeSet<(String, String)>,
    /// Functions that keep their arguments and their rows in the tables of symbols.
    pub(crate) functions: BTreeSet<String>,
    /// Settings of the kernel's build, without `CONFIG_`.
    pub(crate) settings: BTreeSet<String>,
}

impl Wanted {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// One thing a line: what it is, and its name.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut wanted = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            let (what, name) = line.split_once(' ').unwrap_or((line, ""));
            let name = name.trim().to_owned();
            match (what, name.split_once('.')) {
                ("", _) => {}
                ("structure", _) => {
                    wanted.structures.insert(name);
                }
                ("member", Some((structure, member))) => {
                    let pair = (structure.to_owned(), member.to_owned());
                    wanted.members.insert(pair);
                }
                ("function", None) => {
                    wanted.functions.insert(name);
                }
                ("setting", None) => {
                    wanted.settings.insert(name);
                }
                _ => bail!(
                    "line {number}: not a structure, STRUCTURE.MEMBER, function or setting: {line}"
                ),
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_one_thing_and_comments_are_none() {
        let wanted = Wanted::parse(
            "# why\n\nstructure sock.__sk_common\nmember task_struct.nsproxy # big\nfunction tcp_push\nsetting TLS\n",
        )
        .unwrap();
        assert!(wanted.structures.contains("sock.__sk_common"));
        assert!(wanted.functions.contains("tcp_push"));
        assert!(wanted.settings.contains("TLS"));
        let member = ("task_struct".to_owned(), "nsproxy".to_owned());
        assert!(wanted.members.contains(&member));
    }

    #[test]
    fn a_line_that_says_nothing_is_an_error_that_names_it() {
        for line in ["struct sock", "member task_struct", "function a.b", "sock"] {
            let error = Wanted::parse(&format!("setting TLS\n{line}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 2: "), "{error}");
        }
    }
}
