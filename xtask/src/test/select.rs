//! Which scenarios run on which kernels.

use anyhow::{Context as _, Result, bail};
use xtask::job::glob_matches;

use super::file::Scenario;
use crate::kernel::{self, Known};

/// What the command line says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes<'a> {
    /// Only these kernels; all if empty.
    pub(crate) kernels: &'a [String],
    /// Only scenarios whose name matches one of these; all if empty.
    pub(crate) globs: &'a [String],
    /// Also on kernels a scenario doesn't name.
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
    let mut batches = Vec::new();
    for known in kernel::known() {
        if !kernels.is_empty() && !kernels.iter().any(|name| name == known.short) {
            continue;
        }
        let mut chosen = scenarios.to_vec();
        chosen.retain(|scenario| {
            (all_kernels || scenario.kernels().any(|name| name == known.short))
                && (globs.is_empty() || globs.iter().any(|glob| glob_matches(glob, &scenario.name)))
        });
        if !chosen.is_empty() {
            batches.push(Batch {
                known,
                scenarios: chosen,
            });
        }
    }
    if batches.is_empty() {
        bail!("no scenario is selected");
    }
    Ok(batches)
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

    fn selected(
        kernels: &[&str],
        globs: &[&str],
        all_kernels: bool,
    ) -> Result<Vec<(String, Vec<String>)>> {
        let scenarios = [
            scenario("corked-tls12", r#"["6.1", "7.3"]"#),
            scenario("healthy", r#"["6.1"]"#),
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
                let names = batch
                    .scenarios
                    .into_iter()
                    .map(|scenario| scenario.name)
                    .collect();
                (batch.known.short.to_owned(), names)
            })
            .collect())
    }

    fn batch(kernel: &str, names: &[&str]) -> (String, Vec<String>) {
        (
            kernel.to_owned(),
            names.iter().map(|name| (*name).to_owned()).collect(),
        )
    }

    #[test]
    fn a_scenario_runs_on_the_kernels_it_names() {
        let expected = [
            batch("6.1", &["corked-tls12", "healthy"]),
            batch("7.3", &["corked-tls12"]),
        ];
        assert_eq!(selected(&[], &[], false).unwrap(), expected);
    }

    #[test]
    fn the_command_line_narrows_and_widens() {
        assert_eq!(
            selected(&["7.3"], &[], false).unwrap(),
            [batch("7.3", &["corked-tls12"])]
        );
        assert_eq!(
            selected(&[], &["hea*"], false).unwrap(),
            [batch("6.1", &["healthy"])]
        );
        assert_eq!(
            selected(&["7.3"], &["healthy"], true).unwrap(),
            [batch("7.3", &["healthy"])]
        );
    }

    #[test]
    fn nothing_selected_is_an_error() {
        assert!(
            selected(&["7.3"], &["healthy"], false)
                .unwrap_err()
                .to_string()
                .contains("no scenario is selected")
        );
        assert!(
            selected(&[], &["nosuch*"], false)
                .unwrap_err()
                .to_string()
                .contains("`nosuch*`")
        );
        assert!(
            selected(&["5.4"], &[], false)
                .unwrap_err()
                .to_string()
                .contains("unknown kernel `5.4`")
        );
    }
}
