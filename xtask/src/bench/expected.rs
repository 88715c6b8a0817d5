//! The figures that later ones are held against, as the last whole run left them.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::figures::{Figures, NONE};

/// Where they are kept.
pub(super) const FILE: &str = "xtask/src/bench/expected.json";
/// The settings that are held to it, and how much of the throughput that was there each may lose: it repeats to 0.0002.
const SETTINGS: [(&str, f64); 2] = [("auto", 0.001), ("full", 0.003)];
/// How many more instructions the verifier may go through.
const INSTRUCTIONS: f64 = 1.05;
/// `VmRSS` that the daemon may have with `auto` while it has nothing to do, in KiB.
const IDLE_KIB: u64 = 12 << 10;
/// Length that the static binary may have, in bytes.
const BINARY_BYTES: u64 = 8_000_000;

/// A ratio by setting, of each workload.
type Ratios = BTreeMap<String, BTreeMap<String, f64>>;

/// What is expected.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    /// Sends a second as a part of those without the daemon, by workload and setting.
    ratios: Ratios,
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
        let measured = ratios(figures);
        for (workload, settings) in &self.ratios {
            for (setting, expected) in settings {
                if let Some(found) = found(&measured, workload, setting) {
                    println!("{workload}, {setting}: {found:.4}, expected {expected:.4}");
                }
            }
        }
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
    pub(super) fn worse(&self, figures: &Figures) -> Vec<String> {
        let measured = ratios(figures);
        let mut worse = Vec::new();
        for (workload, settings) in &self.ratios {
            for (setting, &expected) in settings {
                match found(&measured, workload, setting) {
                    Some(found) if found < expected - slack(setting) => {
                        worse.push(format!(
                            "{workload}, {setting}: {found:.4} instead of {expected:.4}"
                        ));
                    }
                    Some(_) => {}
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
        for (setting, &lines) in &figures.lines {
            if lines > 0 {
                worse.push(format!("{setting}: {lines} lines while nothing was wrong"));
            }
        }
        for (setting, _) in SETTINGS {
            if !figures.lines.contains_key(setting) {
                worse.push(format!("{setting}: lines not counted"));
            }
        }
        let auto = figures.daemon.get("auto");
        match auto.map(|daemon| daemon.resident_kib) {
            None | Some(0) => worse.push("auto: memory not measured".to_owned()),
            Some(kib) if kib > IDLE_KIB => {
                worse.push(format!("auto: {kib} KiB resident, more than {IDLE_KIB}"));
            }
            Some(_) => {}
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

/// How much of the throughput a setting may lose that was there.
fn slack(setting: &str) -> f64 {
    let known = SETTINGS.into_iter().find(|(known, _)| *known == setting);
    known.map_or(0.0, |(_, slack)| slack)
}

/// A ratio, if it was measured.
fn found(measured: &Ratios, workload: &str, setting: &str) -> Option<f64> {
    measured.get(workload)?.get(setting).copied()
}

/// Sends a second as a part of those without the daemon.
fn ratios(figures: &Figures) -> Ratios {
    let row = |(workload, by_setting): &(String, BTreeMap<String, f64>)| {
        let none = by_setting.get(NONE)?;
        let ratio = |setting: &str| Some((setting.to_owned(), none / by_setting.get(setting)?));
        let ratios = SETTINGS
            .into_iter()
            .filter_map(|(setting, _)| ratio(setting))
            .collect();
        Some((workload.clone(), ratios))
    };
    figures.sends.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As good as they are to be, but for what is given.
    fn figures(auto: f64, full: f64, instructions: u64) -> Figures {
        let mut figures = Figures::default();
        for line in [
            "sends\twrite\tnone\t{\"sends\":100,\"ns_per_send\":1000.0}".to_owned(),
            format!("sends\twrite\tauto\t{{\"sends\":100,\"ns_per_send\":{auto}}}"),
            format!("sends\twrite\tfull\t{{\"sends\":100,\"ns_per_send\":{full}}}"),
            "lines\twrite\tauto\t1\t1".to_owned(),
            "lines\twrite\tfull\t1\t1".to_owned(),
            format!("memory\tauto\t{IDLE_KIB}\t30000"),
            format!(
                "programs\t{{\"programs\":[{{\"program\":\"a\",\"instructions\":{instructions}}}]}}"
            ),
        ] {
            figures.take(&line).unwrap();
        }
        figures.binary_bytes = BINARY_BYTES;
        figures
    }

    fn expected() -> Expected {
        Expected::of(&figures(1000.0, 1010.0, 100))
    }

    #[test]
    fn the_same_and_a_little_worse_pass() {
        let none = Vec::<String>::new();
        assert_eq!(expected().worse(&figures(1000.0, 1010.0, 100)), none);
        assert_eq!(expected().worse(&figures(1000.9, 1013.0, 104)), none);
    }

    #[test]
    fn auto_may_lose_a_thousandth() {
        let worse = expected().worse(&figures(1001.5, 1010.0, 100));
        assert_eq!(worse, ["write, auto: 0.9985 instead of 1.0000"]);
    }

    #[test]
    fn full_may_lose_three_thousandths() {
        let worse = expected().worse(&figures(1000.0, 1014.0, 100));
        assert_eq!(worse, ["write, full: 0.9862 instead of 0.9901"]);
    }

    #[test]
    fn programs_may_grow_by_a_twentieth() {
        let worse = expected().worse(&figures(1000.0, 1010.0, 106));
        assert_eq!(worse, ["a: 106 instructions instead of 100"]);
    }

    #[test]
    fn what_was_not_measured_is_worse() {
        assert_eq!(expected().worse(&Figures::default()).len(), 6);
    }

    #[test]
    fn a_line_while_nothing_was_wrong_is_worse() {
        let mut figures = figures(1000.0, 1010.0, 100);
        figures.take("lines\tread\tauto\t1\t2").unwrap();
        let worse = expected().worse(&figures);
        assert_eq!(worse, ["auto: 1 lines while nothing was wrong"]);
    }

    #[test]
    fn a_daemon_that_is_too_large_is_worse() {
        let mut figures = figures(1000.0, 1010.0, 100);
        figures.take("memory\tauto\t12289\t30000").unwrap();
        let worse = expected().worse(&figures);
        assert_eq!(worse, ["auto: 12289 KiB resident, more than 12288"]);
    }

    #[test]
    fn a_binary_that_is_too_long_is_worse() {
        let mut figures = figures(1000.0, 1010.0, 100);
        figures.binary_bytes += 1;
        assert_eq!(expected().worse(&figures).len(), 1);
    }
}
