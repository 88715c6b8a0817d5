//! Sections of a kernel module, above all `.modinfo`: `key=value` strings, each ended by a zero byte.

use anyhow::{Context as _, Result, bail};

/// Reads the `key=value` pairs of a 64-bit little-endian module, in their order.
pub(crate) fn modinfo(module: &[u8]) -> Result<Vec<(String, String)>> {
    let section = section(module, ".modinfo").context("reading the module's sections")?;
    Ok(section
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let (key, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect())
}

/// The names of the functions a module defines, in the order of its table of symbols.
pub(crate) fn functions(module: &[u8]) -> Result<Vec<String>> {
    /// Bytes of an entry of a 64-bit table of symbols.
    const ENTRY: usize = 24;
    /// `STT_FUNC`, in the lower four bits of `st_info`.
    const FUNCTION: u8 = 2;
    let names = section(module, ".strtab")?;
    let mut found = Vec::new();
    for entry in section(module, ".symtab")?.chunks_exact(ENTRY) {
        let is_defined = entry[6..8] != [0, 0];
        if is_defined && entry[4] & 0xf == FUNCTION {
            let name = names
                .get(number(entry, 0, 4)?..)
                .and_then(|rest| rest.split(|byte| *byte == 0).next())
                .context("a symbol's name lies outside of its table")?;
            found.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(found)
}

/// Contents of the section called `wanted`.
pub(crate) fn section<'a>(file: &'a [u8], wanted: &str) -> Result<&'a [u8]> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    let table = number(file, 0x28, 8)?;
    let entry_bytes = number(file, 0x3a, 2)?;
    let count = number(file, 0x3c, 2)?;
    let names_index = number(file, 0x3e, 2)?;
    let header = |index: usize| table + index * entry_bytes;
    let contents = |index: usize| -> Result<&'a [u8]> {
        let start = number(file, header(index) + 0x18, 8)?;
        let length = number(file, header(index) + 0x20, 8)?;
        file.get(start..start.saturating_add(length))
            .context("a section reaches past the end of the file")
    };
    let names = contents(names_index)?;
    for index in 0..count {
        let start = number(file, header(index), 4)?;
        let name = names
            .get(start..)
            .unwrap_or_default()
            .split(|byte| *byte == 0)
            .next();
        if name == Some(wanted.as_bytes()) {
            return contents(index);
        }
    }
    bail!("no section {wanted}")
}

/// A little-endian number of `bytes` bytes at `offset`.
fn number(file: &[u8], offset: usize, bytes: usize) -> Result<usize> {
    let field = file
        .get(offset..offset.saturating_add(bytes))
        .context("the file ends inside a header")?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_module_is_an_error() {
        assert!(modinfo(b"").is_err());
        assert!(modinfo(b"\x7fELF\x02\x01 cut short").is_err());
        assert!(modinfo(&[0; 4096]).is_err());
    }
}
