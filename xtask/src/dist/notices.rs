//! The licences of what is linked in, in their own words: most ask to be handed on with the binary.

use std::{ffi::OsStr, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::crates::{Crate, Linked};

/// What the name of a file with a licence begins with, in capitals.
const BEGINNINGS: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];

/// The document: crates with the numbers of their texts, then each text once.
pub(super) fn document(linked: &Linked) -> Result<Vec<u8>> {
    let mut texts = Vec::new();
    let mut document = format!(
        "What is linked into ktls-trace beside its own sources, with licences. Numbers are those of the texts below.\n\n\
         Rust's standard library {}: MIT OR Apache-2.0\n\
         GNU C library {}: LGPL-2.1-or-later\n",
        linked.std, linked.glibc
    );
    let others = linked.crates.iter().filter(|one| one.checksum.is_some());
    for one in others {
        line(&mut document, one, &numbers(&mut texts, &one.folder)?)?;
    }
    for (number, text) in texts.iter().enumerate() {
        write!(
            document,
            "\n{} [{}]\n\n{text}\n",
            "-".repeat(72),
            number + 1
        )?;
    }
    Ok(document.into_bytes())
}

fn line(document: &mut String, one: &Crate, numbers: &[usize]) -> Result<()> {
    let licence = one.licence.as_deref().unwrap_or("see its text");
    write!(document, "{} {}: {licence}", one.name, one.version)?;
    for number in numbers {
        write!(document, " [{number}]")?;
    }
    if let Some(repository) = &one.repository {
        write!(document, " {repository}")?;
    }
    document.push('\n');
    Ok(())
}

/// Numbers of the licences in a folder; texts that are not known yet are added.
fn numbers(texts: &mut Vec<String>, folder: &Path) -> Result<Vec<usize>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("listing {}", folder.display()))?
            .path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let name = name.to_uppercase();
        if path.is_file()
            && BEGINNINGS
                .iter()
                .any(|beginning| name.starts_with(beginning))
        {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            let text = text.trim().to_owned();
            let known = texts.iter().position(|other| *other == text);
            Ok(known.unwrap_or_else(|| {
                texts.push(text);
                texts.len() - 1
            }) + 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_once() {
        let root = std::env::temp_dir().join(format!("ktls-trace-notices-{}", std::process::id()));
        let folder = |name: &str| root.join(name);
        for (name, file, text) in [
            ("a", "LICENSE-MIT", "the same\n"),
            ("b", "license.txt", "the same\r\n"),
            ("b", "README.md", "no licence"),
        ] {
            fs::create_dir_all(folder(name)).unwrap();
            fs::write(folder(name).join(file), text).unwrap();
        }
        let mut texts = Vec::new();
        assert_eq!(numbers(&mut texts, &folder("a")).unwrap(), [1]);
        assert_eq!(numbers(&mut texts, &folder("b")).unwrap(), [1]);
        assert_eq!(texts, ["the same"]);
        fs::remove_dir_all(root).unwrap();
    }
}
