//! `cargo xtask dist --check`: whether a second build, in another folder, gives the same bytes.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use super::{SUMS, artefacts, remove_folder};
use crate::{command, place::Place};

/// Builds here and in a fresh clone, and says of each artefact whether it is the same.
pub(super) fn run(place: &Place) -> Result<ExitCode> {
    let changed = command::output(
        Command::new("git")
            .args(["status", "--porcelain"])
            .current_dir(&place.workspace),
    )?;
    if !changed.is_empty() {
        bail!("a clone has what is committed only, and this is not:\n{changed}");
    }
    let first = sums(place)?;
    let clone = place.results("dist-check");
    remove_folder(&clone)?;
    command::run(
        Command::new("git")
            .args(["clone", "--quiet"])
            .args([&place.workspace, &clone]),
    )?;
    let second_place = Place {
        target: clone.join("target"),
        workspace: clone.clone(),
        cache: place.cache.clone(),
    };
    let second = sums(&second_place)?;

    let lines = compare(&first, &second);
    for (name, same) in &lines {
        println!("{} {name}", if *same { "same  " } else { "DIFFER" });
    }
    if lines.values().all(|same| *same) {
        remove_folder(&clone)?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "the second build is kept in {}",
        second_place.target.join("dist").display()
    );
    Ok(ExitCode::FAILURE)
}

/// Builds in a place; the checksums by name.
fn sums(place: &Place) -> Result<BTreeMap<String, String>> {
    artefacts(place)?;
    let list = place.target.join("dist").join(SUMS);
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    text.lines()
        .map(|line| {
            let (sum, name) = line.split_once("  ").context("a line without a sum")?;
            Ok((name.to_owned(), sum.to_owned()))
        })
        .collect()
}

/// Whether each artefact of either build is in both, and the same.
fn compare(
    first: &BTreeMap<String, String>,
    second: &BTreeMap<String, String>,
) -> BTreeMap<String, bool> {
    let names = first.keys().chain(second.keys());
    names
        .map(|name| (name.clone(), first.get(name) == second.get(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_or_is_missing_is_told() {
        let sums = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|&(name, sum)| (name.to_owned(), sum.to_owned()))
                .collect()
        };
        let first = sums(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let second = sums(&[("a", "1"), ("b", "9"), ("d", "3")]);
        let told: Vec<bool> = compare(&first, &second).into_values().collect();
        assert_eq!(told, [true, false, false, false]);
    }
}
