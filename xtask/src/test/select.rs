//! Which scenarios run on which kernels.

use anyhow::{Context as _, Result, bail};
use xtask::job::glob_matches;

use super::file::Scenario;
use crate::kernel::{self, Known, StandsIn};

/// What the command line says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes<'a> {
    /// Only these kernels; if empty, those the scenarios name.
    pub(crate) kernels: &'a [String],
    /// Only scenarios whose name matches one of these; all if empty.
    pub(crate) globs: &'a [String],
    /// Also on the kernels that stand in for those a scenario names.
    pub(crate) all_kernels: bool,
}

/// One kernel with its scenarios.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// The kernel.
    pub(crate) known: &'static Known,
    /// In the order of their names.
    pub(crate) scenarios: Vec<Scenario>,
}

/// Every kernel that has something to do. An error when nothing is selected, or a glob selects nothing.
pub(crate) fn select(scenarios: &[Scenario], wishes: Wishes<'_>) -> Result<Vec<Batch>> {
    let Wishes {
        kernels,
        globs,
        all_kernels,
    } = wishes;
    for name in kernels {
        kernel::find(name)?;
    }
    for glob in globs {
        scenarios
            .iter()
            .find(|scenario| glob_matches(glob, &scenario.name))
            .with_context(|| format!("no scenario matches `{glob}`"))?;
    }
    let by_glob = |scenario: &Scenario| {
        globs.is_empty() || globs.iter().any(|glob| glob_matches(glob, &scenario.name))
    };
    let mut batches = Vec::new();
    for known in kernel::known() {
        let asked = kernels.iter().any(|name| name == known.short);
        if !kernels.is_empty() && !asked {
            continue;
        }
        let mut chosen = scenarios.to_vec();
        chosen.retain(|scenario| {
            let runs = match validity(scenario, known) {
                Validity::Named => true,
                Validity::StandIn { in_all_kernels } => asked || (all_kernels && in_all_kernels),
                Validity::Not => false,
            };
            runs && by_glob(scenario)
        });
        if !chosen.is_empty() {
            batches.push(Batch {
                known,
                scenarios: chosen,
            });
        }
    }
    if batches.is_empty() {
        bail!("no scenario is selected: none of those asked for is valid on the kernels asked for");
    }
    Ok(batches)
}

/// Whether what a scenario expects holds on a kernel.
enum Validity {
    /// Its file says so.
    Named,
    /// It names a kernel that this one stands in for.
    StandIn { in_all_kernels: bool },
    /// Nobody says so.
    Not,
}

fn validity(scenario: &Scenario, known: &Known) -> Validity {
    let names = |short: &str| scenario.kernels().any(|name| name == short);
    if names(known.short) {
        return Validity::Named;
    }
    match known.stands_in {
        Some(StandsIn {
            like,
            rt_only,
            in_all_kernels,
        }) if names(like) && (!rt_only || scenario.is_for_rt()) => {
            Validity::StandIn { in_all_kernels }
        }
        _ => Validity::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::file::tests::parse, *};

    fn scenario(name: &str, kernels: &str) -> Scenario {
        let text = format!(
            "about = \"x\"\nkernels = {kernels}\ntimeout_s = 5\n[workload]\ncommand = [\"true\"]\nexit = 0\n"
        );
        Scenario {
            name: name.to_owned(),
            ..parse(&text).unwrap()
        }
    }

    /// `KERNEL: SCENARIO …` for each kernel.
    fn selected(kernels: &[&str], globs: &[&str], all_kernels: bool) -> Result<Vec<String>> {
        let scenarios = [
            scenario("corked-tls12", r#"["6.1", "7.3"]"#),
            scenario("healthy", "[\"6.1\", \"6.12\"]\nrt = true"),
            scenario("verifier", r#"["6.12"]"#),
        ];
        let owned = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| (*word).to_owned()).collect()
        };
        let (kernels, globs) = (owned(kernels), owned(globs));
        let batches = select(
            &scenarios,
            Wishes {
                kernels: &kernels,
                globs: &globs,
                all_kernels,
            },
        )?;
        Ok(batches
            .into_iter()
            .map(|batch| {
                let names: Vec<String> = batch
                    .scenarios
                    .into_iter()
                    .map(|scenario| scenario.name)
                    .collect();
                format!("{}: {}", batch.known.short, names.join(" "))
            })
            .collect())
    }

    #[test]
    fn a_scenario_runs_on_the_kernels_it_names() {
        let expected = [
            "6.1: corked-tls12 healthy",
            "6.12: healthy verifier",
            "7.3: corked-tls12",
        ];
        assert_eq!(selected(&[], &[], false).unwrap(), expected);
    }

    #[test]
    fn all_kernels_adds_those_that_stand_in_for_a_named_one_and_no_other() {
        let expected = [
            "6.1: corked-tls12 healthy",
            "6.12: healthy verifier",
            "6.12-trixie: healthy verifier",
            "6.12-rt: healthy",
            "7.2: corked-tls12",
            "7.3: corked-tls12",
        ];
        assert_eq!(selected(&[], &[], true).unwrap(), expected);
    }

    #[test]
    fn a_kernel_asked_for_runs_what_is_valid_there() {
        for all_kernels in [false, true] {
            let on = |kernel| selected(&[kernel], &[], all_kernels).unwrap();
            assert_eq!(on("7.3"), ["7.3: corked-tls12"]);
            assert_eq!(on("7.2"), ["7.2: corked-tls12"]);
            assert_eq!(on("6.12-bookworm"), ["6.12-bookworm: healthy verifier"]);
            assert_eq!(on("6.12-rt"), ["6.12-rt: healthy"]);
        }
        assert_eq!(
            selected(&[], &["hea*"], false).unwrap(),
            ["6.1: healthy", "6.12: healthy"]
        );
    }

    #[test]
    fn nothing_selected_is_an_error() {
        let error = |kernels: &[&str], globs: &[&str], all_kernels| {
            selected(kernels, globs, all_kernels)
                .unwrap_err()
                .to_string()
        };
        assert!(error(&["7.3"], &["healthy"], true).contains("no scenario is selected"));
        assert!(error(&["6.12-rt"], &["verifier"], true).contains("no scenario is selected"));
        assert!(error(&[], &["nosuch*"], false).contains("`nosuch*`"));
        assert!(error(&["5.4"], &[], false).contains("unknown kernel `5.4`"));
    }
}
