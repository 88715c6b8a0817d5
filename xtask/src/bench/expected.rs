//! The figures that later ones are held against, as the last whole run left them.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::figures::{Figures, NONE};

/// Where they are kept.
pub(super) const FILE: &str = "xtask/src/bench/expected.json";
/// How much of the throughput may be lost that was there.
const RATIO: f64 = 0.004;
/// How many more instructions the verifier may go through.
const INSTRUCTIONS: f64 = 1.1;
/// Length that the static binary may have, in bytes.
const BINARY_BYTES: u64 = 8_000_000;
/// The settings that are held to it.
const SETTINGS: [&str; 2] = ["auto", "full"];

/// What is expected.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    /// Sends a second as a part of those without the daemon, by workload and setting.
    ratios: BTreeMap<String, BTreeMap<String, f64>>,
    /// Instructions that the verifier goes through, by program.
    programs: BTreeMap<String, u64>,
}

impl Expected {
    /// What these figures make to be expected.
    pub(super) fn of(figures: &Figures) -> Self {
        Self {
            ratios: ratios(figures),
            programs: figures.programs.clone(),
        }
    }

    /// What is kept.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))
    }

    /// Keeps it.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("encoding what is expected")?;
        super::write(path, &(text + "\n"))
    }

    /// Says what is worse than expected; success if nothing is.
    pub(super) fn hold_against(&self, figures: &Figures) -> ExitCode {
        let worse = self.worse(figures);
        for line in &worse {
            println!("worse: {line}");
        }
        if worse.is_empty() {
            println!("bench: no figure is worse than {FILE} has it");
            ExitCode::SUCCESS
        } else {
            println!("after a change that is worth it: `cargo xtask bench`");
            ExitCode::FAILURE
        }
    }

    /// What is worse, a line each. Whatever is expected has to be there.
    fn worse(&self, figures: &Figures) -> Vec<String> {
        let measured = ratios(figures);
        let mut worse = Vec::new();
        for (workload, settings) in &self.ratios {
            for (setting, expected) in settings {
                let found = measured.get(workload).and_then(|row| row.get(setting));
                match found {
                    Some(found) => {
                        println!("{workload}, {setting}: {found:.4}, expected {expected:.4}");
                        if *found < expected - RATIO {
                            worse.push(format!(
                                "{workload}, {setting}: {found:.4} instead of {expected:.4}"
                            ));
                        }
                    }
                    None => worse.push(format!("{workload}, {setting}: not measured")),
                }
            }
        }
        for (program, &expected) in &self.programs {
            match figures.programs.get(program) {
                #[expect(clippy::cast_precision_loss, reason = "they are thousands")]
                Some(&found) if found as f64 > expected as f64 * INSTRUCTIONS => {
                    worse.push(format!(
                        "{program}: {found} instructions instead of {expected}"
                    ));
                }
                Some(_) => {}
                None => worse.push(format!("{program}: not verified")),
            }
        }
        if figures.binary_bytes > BINARY_BYTES {
            worse.push(format!(
                "the static binary has {} bytes, which are more than {BINARY_BYTES}",
                figures.binary_bytes
            ));
        }
        worse
    }
}

/// Sends a second as a part of those without the daemon.
fn ratios(figures: &Figures) -> BTreeMap<String, BTreeMap<String, f64>> {
    let row = |(workload, by_setting): &(String, BTreeMap<String, f64>)| {
        let none = by_setting.get(NONE)?;
        let ratio = |setting: &str| Some((setting.to_owned(), none / by_setting.get(setting)?));
        let ratios = SETTINGS.into_iter().filter_map(ratio).collect();
        Some((workload.clone(), ratios))
    };
    figures.sends.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(full: f64, instructions: u64) -> Figures {
        let mut figures = Figures::default();
        for line in [
            "sends\twrite\tnone\t{\"sends\":100,\"ns_per_send\":1000.0}".to_owned(),
            "sends\twrite\tauto\t{\"sends\":100,\"ns_per_send\":1000.0}".to_owned(),
            format!("sends\twrite\tfull\t{{\"sends\":100,\"ns_per_send\":{full}}}"),
            format!(
                "programs\t{{\"programs\":[{{\"program\":\"a\",\"instructions\":{instructions}}}]}}"
            ),
        ] {
            figures.take(&line).unwrap();
        }
        figures
    }

    #[test]
    fn the_same_and_a_little_worse_pass_and_more_does_not() {
        let expected = Expected::of(&figures(1010.0, 100));
        assert_eq!(expected.worse(&figures(1010.0, 100)), Vec::<String>::new());
        assert_eq!(expected.worse(&figures(1013.0, 109)), Vec::<String>::new());
        assert_eq!(expected.worse(&figures(1020.0, 100)).len(), 1);
        assert_eq!(expected.worse(&figures(1010.0, 120)).len(), 1);
    }

    #[test]
    fn what_was_not_measured_is_worse() {
        let expected = Expected::of(&figures(1010.0, 100));
        assert_eq!(expected.worse(&Figures::default()).len(), 3);
    }

    #[test]
    fn a_binary_that_is_too_long_is_worse() {
        let expected = Expected::of(&figures(1010.0, 100));
        let mut figures = figures(1010.0, 100);
        figures.binary_bytes = BINARY_BYTES + 1;
        assert_eq!(expected.worse(&figures).len(), 1);
    }
}
