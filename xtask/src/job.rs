//! The job a guest is booted for, as JSON in its initramfs, and the list of kernel modules it may load.

use serde::{Deserialize, Serialize};

use crate::scenario::ScenarioJob;

/// Where the guest finds its [`Job`].
pub const JOB_PATH: &str = "/job.json";
/// Where the guest finds its [`ModuleList`].
pub const MODULES_PATH: &str = "/lib/modules/list.json";
/// Name of the virtio port the frames go through.
pub const PORT_NAME: &str = "ktls-trace.job";
/// Modules named in this file, one a line, are refused by the guest's `modprobe`.
pub const REFUSED_MODULES_PATH: &str = "/run/modules-refused";

/// What a guest does between boot and power-off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Whether the modules marked [`Module::at_start`] are loaded before the action.
    pub load_modules: bool,
    /// What to do then.
    pub action: Action,
}

/// The kinds of work a guest knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Action {
    /// Run one command, its output framed as it comes.
    Command {
        /// Program and arguments, passed on as they are.
        argv: Vec<String>,
    },
    /// The demonstration of [`crate::demo`].
    Demo,
    /// Scenarios, one after another, each reported when it ends.
    Scenarios {
        /// In this order.
        jobs: Vec<ScenarioJob>,
    },
}

/// Every module in the initramfs, dependencies before dependants.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ModuleList(pub Vec<Module>);

/// One kernel module of the initramfs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Module {
    /// Name with `_`, as the kernel prints it.
    pub name: String,
    /// Path in the guest.
    pub file: String,
    /// Names of all modules it needs, in the order to load them, itself not included.
    pub needs: Vec<String>,
    /// Patterns it answers to besides its name (`alias=` of its `.modinfo`).
    pub aliases: Vec<String>,
    /// When init loads it.
    pub load: Load,
}

/// When a module is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Load {
    /// Always and first: without it the guest can't answer.
    Transport,
    /// Before the job, unless the job says not to.
    AtStart,
    /// When the kernel or somebody asks for it.
    OnDemand,
}

impl ModuleList {
    /// The module that `wanted` names, by name (with `-` and `_` equal) or by alias.
    pub fn find(&self, wanted: &str) -> Option<&Module> {
        let name = module_name(wanted);
        self.0
            .iter()
            .find(|module| module.name == name)
            .or_else(|| {
                self.0.iter().find(|module| {
                    module
                        .aliases
                        .iter()
                        .any(|alias| glob_matches(alias, wanted))
                })
            })
    }
}

/// A module's name the way the kernel prints it: `-` becomes `_`.
pub fn module_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether `pattern`, with `*` and `?` as in a module alias, matches all of `text`.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at_pattern, mut at_text) = (0, 0);
    // Where to resume when a later byte doesn't match: the last star, and the text it has swallowed so far.
    let mut retry: Option<(usize, usize)> = None;
    while at_text < text.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                retry = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(b'?') => {
                at_pattern += 1;
                at_text += 1;
            }
            Some(byte) if *byte == text[at_text] => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => match retry {
                Some((star, swallowed)) => {
                    retry = Some((star, swallowed + 1));
                    at_pattern = star + 1;
                    at_text = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> ModuleList {
        let module = |name: &str, aliases: &[&str]| Module {
            name: name.to_owned(),
            file: format!("/lib/modules/{name}.ko"),
            needs: Vec::new(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            load: Load::OnDemand,
        };
        ModuleList(vec![
            module(
                "aesni_intel",
                &["crypto-aes", "cpu:type:x86,ven*fam*mod*:feature:*0099*"],
            ),
            module("tls", &["tcp-ulp-tls", "tls"]),
        ])
    }

    #[test]
    fn dash_and_underscore_are_one() {
        assert_eq!(list().find("aesni-intel").unwrap().name, "aesni_intel");
    }

    #[test]
    fn a_kernel_request_is_found_by_alias() {
        assert_eq!(list().find("tcp-ulp-tls").unwrap().name, "tls");
        assert_eq!(
            list()
                .find("cpu:type:x86,ven0000fam0006mod0006:feature:,0000,0099,00AA")
                .unwrap()
                .name,
            "aesni_intel"
        );
        assert!(list().find("tcp-ulp-mptcp").is_none());
    }

    #[test]
    fn globs_match_the_whole_text() {
        assert!(glob_matches("a*c?e", "abbbcde"));
        assert!(glob_matches("*", ""));
        assert!(!glob_matches("a*c", "abcd"));
        assert!(!glob_matches("abc", "ab"));
    }
}
