//! What a kernel's image says without being booted: its BTF, and the names of its functions.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::raw_btf::Header;

/// How a compressed kernel starts, and who can read it.
const COMPRESSORS: &[(&[u8], &str)] = &[
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x1f\x8b", "gzip"),
];

/// The kernel inside a `vmlinuz`: decompressed if it is an x86 bzImage, as it is otherwise (arm64's `Image`).
pub(crate) fn uncompressed(vmlinuz: Vec<u8>) -> Result<Vec<u8>> {
    // The x86 boot protocol (Documentation/arch/x86/boot.rst): `HdrS`, setup_sects, payload_offset and payload_length.
    if vmlinuz.get(0x202..0x206) != Some(b"HdrS") {
        return Ok(vmlinuz);
    }
    let word = |at: usize| -> Result<usize> {
        let bytes = vmlinuz
            .get(at..)
            .and_then(|rest| rest.first_chunk::<4>())
            .context("the image's header is cut short")?;
        Ok(u32::from_le_bytes(*bytes) as usize)
    };
    let start = (usize::from(vmlinuz[0x1f1]) + 1) * 512 + word(0x248)?;
    let payload = vmlinuz
        .get(start..start + word(0x24c)?)
        .context("the image's payload reaches past its end")?;
    let Some((_, program)) = COMPRESSORS
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
    else {
        bail!("the image is compressed in a way not known here");
    };
    let kernel = piped(program, payload)?;
    // gzip has the length of what it packed at its own end; for the others the kernel's build appends it.
    let length = payload
        .last_chunk::<4>()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
    ensure!(
        kernel.len() == length,
        "{program} unpacked {} bytes of a kernel of {length}",
        kernel.len()
    );
    Ok(kernel)
}

/// What `PROGRAM -dc` makes of `input`. It complains about the length that follows the packed kernel, so its status says nothing.
fn piped(program: &str, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {program}, which unpacks this kernel: install it"))?;
    let mut stdin = child
        .stdin
        .take()
        .context("a pipe just made is not there")?;
    let output = thread::scope(|scope| {
        // It may stop reading before the end.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output()
    });
    Ok(output
        .with_context(|| format!("reading from {program}"))?
        .stdout)
}

/// The kernel's BTF: the largest blob in the image that looks like it. (The section's header is not there in every format.)
pub(crate) fn btf(kernel: &[u8]) -> Result<&[u8]> {
    let mut best: &[u8] = &[];
    let mut at = 0;
    while let Some(found) = find(kernel, b"\x9f\xeb\x01\x00", at) {
        let rest = &kernel[found..];
        if let Ok(header) = Header::read(rest)
            && let Some(blob) = rest.get(..header.blob_bytes())
            && blob.len() > best.len()
        {
            best = blob;
        }
        at = found + 4;
    }
    ensure!(!best.is_empty(), "the kernel has no BTF");
    Ok(best)
}

/// Where `needle` is in `hay`, from `start` on.
fn find(hay: &[u8], needle: &[u8], start: usize) -> Option<usize> {
    hay.get(start..)?
        .windows(needle.len())
        .position(|window| window == needle)
        .map(|position| start + position)
}

/// The kernel's own table of symbols in the format of `/proc/kallsyms`, with addresses hidden (all zero).
///
/// `scripts/kallsyms.c` writes it: names are packed with a table of 256 tokens, and an index has where every 256th name starts.
pub(crate) fn kallsyms(kernel: &[u8]) -> Result<String> {
    let (tokens, names) = Tokens::candidates(kernel)
        .find_map(|tokens| {
            let markers = markers_before(kernel, tokens.start)?;
            Some((tokens, names_before(kernel, &markers)?))
        })
        .context("the kernel's table of symbols was not found")?;
    let mut table = String::new();
    let mut at = names.start;
    for _ in 0..names.count {
        let (packed, next) = name_at(kernel, at).context("a symbol's name is cut short")?;
        let unpacked: Vec<u8> = packed
            .iter()
            .flat_map(|token| tokens.texts[usize::from(*token)].iter().copied())
            .collect();
        let text = String::from_utf8_lossy(&unpacked);
        let mut characters = text.chars();
        let kind = characters.next().context("a symbol has no name")?;
        table.extend([
            "0000000000000000 ",
            &text[..kind.len_utf8()],
            " ",
            characters.as_str(),
            "
",
        ]);
        at = next;
    }
    Ok(table)
}

/// The table of tokens.
struct Tokens<'a> {
    /// Its offset in the kernel.
    start: usize,
    /// What each stands for.
    texts: Vec<&'a [u8]>,
}

impl<'a> Tokens<'a> {
    /// What may be the table. The digits are in every kernel's names, and a character that is in use is its own token; but
    /// there are tables of the alphabet for other purposes.
    fn candidates(kernel: &'a [u8]) -> impl Iterator<Item = Self> {
        const DIGITS: &[u8] = b"\x000\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
        let mut at = 0;
        let places = std::iter::from_fn(move || {
            let found = find(kernel, DIGITS, at)?;
            at = found + 1;
            Some(found)
        });
        places.filter_map(|found| {
            // Back over the tokens before `0`.
            let before = (0..b'0').try_fold(found, |start, _| {
                kernel[..start].iter().rposition(|byte| *byte == 0)
            })?;
            let start = before + 1;
            let texts: Vec<&[u8]> = kernel[start..].split(|byte| *byte == 0).take(256).collect();
            (texts.len() == 256).then_some(Self { start, texts })
        })
    }
}

/// The index: offsets of every 256th name, growing from 0, the last just before the tokens.
struct Markers {
    start: usize,
    offsets: Vec<usize>,
}

fn markers_before(kernel: &[u8], tokens: usize) -> Option<Markers> {
    // Between the two lies alignment only.
    for last in (tokens.saturating_sub(16)..=tokens.checked_sub(4)?).rev() {
        let mut offsets = Vec::new();
        let mut at = last;
        while let Some(offset) = word(kernel, at) {
            // 256 names take less than 64 KiB.
            let fits = offsets
                .last()
                .is_none_or(|next| offset < *next && *next - offset < 0x1_0000);
            if !fits || (offset == 0 && offsets.is_empty()) {
                break;
            }
            offsets.push(offset);
            if offset == 0 {
                offsets.reverse();
                if offsets.len() > 16 {
                    return Some(Markers { start: at, offsets });
                }
                break;
            }
            at = at.checked_sub(4)?;
        }
    }
    None
}

/// The packed names.
struct Names {
    start: usize,
    count: usize,
}

/// The names lie before the index and after their number. Where they start follows from the index: from there, each 256
/// names end where it says.
fn names_before(kernel: &[u8], markers: &Markers) -> Option<Names> {
    let offsets = &markers.offsets;
    let latest = markers.start.checked_sub(*offsets.last()?)?;
    for start in (latest.saturating_sub(0x1_0000)..=latest).rev() {
        let ends_at = |from: usize| {
            (0..256).try_fold(start + from, |at, _| {
                name_at(kernel, at).map(|(_, next)| next)
            })
        };
        if !offsets
            .windows(2)
            .all(|pair| ends_at(pair[0]) == Some(start + pair[1]))
        {
            continue;
        }
        // The number is the word before, aligned to 8 bytes.
        let least = (offsets.len() - 1) * 256;
        let count = [8, 4]
            .iter()
            .filter_map(|before| word(kernel, start.checked_sub(*before)?))
            .find(|count| (least + 1..=least + 256).contains(count))?;
        return Some(Names { start, count });
    }
    None
}

/// The packed name at an offset, and where the next starts. A length past 127 takes two bytes since 6.1.
fn name_at(kernel: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let first = usize::from(*kernel.get(at)?);
    let (length, start) = if first & 0x80 == 0 {
        (first, at + 1)
    } else {
        let second = usize::from(*kernel.get(at + 1)?);
        ((first & 0x7f) | second << 7, at + 2)
    };
    let packed = kernel.get(start..start + length)?;
    (length > 0).then_some((packed, start + length))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*four) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel whose tokens are the characters themselves, with `names` as `scripts/kallsyms.c` would write them.
    fn kernel(names: &[String]) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut markers = Vec::new();
        for (number, name) in names.iter().enumerate() {
            if number % 256 == 0 {
                markers.push(u32::try_from(packed.len()).unwrap());
            }
            packed.push(u8::try_from(name.len() + 1).unwrap());
            packed.push(b'T');
            packed.extend_from_slice(name.as_bytes());
        }
        let mut kernel = vec![0xff; 64];
        kernel.extend_from_slice(&u64::try_from(names.len()).unwrap().to_le_bytes());
        kernel.extend_from_slice(&packed);
        kernel.resize(kernel.len().next_multiple_of(8), 0);
        for marker in &markers {
            kernel.extend_from_slice(&marker.to_le_bytes());
        }
        kernel.resize(kernel.len().next_multiple_of(8), 0);
        for token in 0..=255_u8 {
            kernel.push(if token == 0 { b'#' } else { token });
            kernel.push(0);
        }
        kernel.resize(kernel.len() + 64, 0xff);
        kernel
    }

    #[test]
    fn names_are_unpacked_in_their_order() {
        let names: Vec<String> = (0..5000)
            .map(|number| format!("tcp_function_{number}"))
            .collect();
        let table = kallsyms(&kernel(&names)).unwrap();
        let found: Vec<&str> = table
            .lines()
            .map(|row| row.strip_prefix("0000000000000000 T ").unwrap())
            .collect();
        assert_eq!(found, names);
    }

    #[test]
    fn an_image_without_tables_is_an_error() {
        assert!(kallsyms(&[0; 4096]).is_err());
        assert!(btf(&[0; 4096]).is_err());
        assert_eq!(uncompressed(vec![0; 4096]).unwrap().len(), 4096);
    }
}
