//! What is in the binary, in CycloneDX: for scanners that look for known holes, and for whoever has to list licences.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    VERSION,
    crates::{Crate, Linked},
    stamp::Stamp,
};
use crate::command;

/// The document. Its keys are sorted, and it carries no number of its own: the same binary has the same one.
pub(super) fn document(linked: &Linked, binary: &Path, stamp: Stamp) -> Result<Vec<u8>> {
    let sum = command::output(Command::new("sha256sum").arg(binary))?;
    let sum = sum.split_whitespace().next().context("no checksum")?;
    let document = describe(linked, sum, &stamp.timestamp()?.to_string());
    let mut text = serde_json::to_vec_pretty(&document).context("writing the SBOM")?;
    text.push(b'\n');
    Ok(text)
}

fn describe(linked: &Linked, sum: &str, time: &str) -> Value {
    let Linked { crates, std, glibc } = linked;
    // The daemon is what the document is about; the rest are its components.
    let (daemon, libraries): (Vec<&Crate>, Vec<&Crate>) =
        crates.iter().partition(|one| one.name == "ktls-trace");
    let toolchain = [
        json!({
            "type": "library",
            "bom-ref": format!("pkg:generic/rust-std@{std}"),
            "purl": format!("pkg:generic/rust-std@{std}"),
            "name": "rust-std",
            "version": std,
            "licenses": [{"expression": "MIT OR Apache-2.0"}],
        }),
        json!({
            "type": "library",
            "bom-ref": format!("pkg:generic/glibc@{glibc}"),
            "purl": format!("pkg:generic/glibc@{glibc}"),
            "cpe": format!("cpe:2.3:a:gnu:glibc:{glibc}:*:*:*:*:*:*:*"),
            "name": "glibc",
            "version": glibc,
            "licenses": [{"expression": "LGPL-2.1-or-later"}],
        }),
    ];
    let needed: Vec<&Value> = toolchain.iter().map(|one| &one["bom-ref"]).collect();
    let components: Vec<Value> = libraries
        .iter()
        .map(|one| component(one, "library"))
        .chain(toolchain.iter().cloned())
        .collect();
    let dependencies: Vec<Value> = crates
        .iter()
        .map(|one| {
            let mut needs: Vec<Value> = one.needs.iter().map(|need| json!(need)).collect();
            if one.name == "ktls-trace" {
                needs.extend(needed.iter().map(|need| (*need).clone()));
            }
            json!({"ref": one.purl(), "dependsOn": needs})
        })
        .collect();
    let program = daemon.first().map(|daemon| {
        let mut program = component(daemon, "application");
        program["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        program
    });
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "tools": {"components": [{"type": "application", "name": "ktls-trace xtask", "version": VERSION}]},
            "component": program,
        },
        "components": components,
        "dependencies": dependencies,
    })
}

fn component(one: &Crate, kind: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": one.purl(),
        "purl": one.purl(),
        "name": one.name,
        "version": one.version,
    });
    if let Some(licence) = &one.licence {
        component["licenses"] = json!([{"expression": licence}]);
    }
    if let Some(checksum) = &one.checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if let Some(repository) = &one.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_the_subject_and_rests_on_crates_and_toolchain() {
        let one = |name: &str, needs: &[&str]| Crate {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: Some("MIT".to_owned()),
            repository: None,
            folder: "/".into(),
            checksum: None,
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
        };
        let linked = Linked {
            crates: vec![one("aya", &[]), one("ktls-trace", &["pkg:cargo/aya@1.0.0"])],
            std: "1.95.0".to_owned(),
            glibc: "2.36".to_owned(),
        };
        let document = describe(&linked, "abc", "2026-05-28T20:26:40Z");
        assert_eq!(
            document["metadata"]["component"]["hashes"][0]["content"],
            "abc"
        );
        let names: Vec<&Value> = document["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["name"])
            .collect();
        assert_eq!(names, ["aya", "rust-std", "glibc"]);
        assert_eq!(
            document["dependencies"][1]["dependsOn"],
            json!([
                "pkg:cargo/aya@1.0.0",
                "pkg:generic/rust-std@1.95.0",
                "pkg:generic/glibc@2.36"
            ])
        );
    }
}
