//! The recordings in the source tree.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use flate2::{
    Compression,
    read::{GzDecoder, MultiGzDecoder},
    write::GzEncoder,
};
use xtask::scenario::RECORDING;

use crate::place::{Place, write_atomically};

/// A recording longer than this is not kept.
pub(super) const LONGEST_BYTES: u64 = 64 * 1024;
/// All that is kept, with the events, is no longer than this.
pub(super) const TOTAL_BYTES: u64 = 2 * 1024 * 1024;
/// Lines of a recording that go into one of its chunks.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Where they are.
pub(super) fn directory(workspace: &Path) -> PathBuf {
    workspace.join("xtask/recordings")
}

/// One recording and the events it replays to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Recording {
    /// Short name of the kernel.
    pub(super) kernel: String,
    /// The scenario.
    pub(super) scenario: String,
    /// The file.
    pub(super) path: PathBuf,
}

impl Recording {
    fn new(directory: &Path, kernel: &str, scenario: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            scenario: scenario.to_owned(),
            path: directory.join(kernel).join(format!("{scenario}.ktrace")),
        }
    }

    /// `SCENARIO on KERNEL`.
    pub(super) fn name(&self) -> String {
        format!("{} on {}", self.scenario, self.kernel)
    }

    /// The file of the events.
    fn events_path(&self) -> PathBuf {
        self.path.with_extension("events.gz")
    }

    /// Length of both files in bytes.
    pub(super) fn bytes(&self) -> Result<u64> {
        let mut sum = 0;
        for path in [&self.path, &self.events_path()] {
            let file = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
            sum += file.len();
        }
        Ok(sum)
    }

    /// The events it replays to.
    pub(super) fn events(&self) -> Result<String> {
        let path = self.events_path();
        let mut events = String::new();
        File::open(&path)
            .and_then(|file| GzDecoder::new(file).read_to_string(&mut events))
            .with_context(|| format!("reading {}", path.display()))?;
        Ok(events)
    }

    /// Removes both files.
    fn remove(&self) -> Result<()> {
        for path in [&self.path, &self.events_path()] {
            fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Keeps the events it replays to.
    pub(super) fn write_events(&self, events: &str) -> Result<()> {
        write_atomically(&self.events_path(), &pack(events.as_bytes())?)
    }
}

/// Every recording there is, by kernel and scenario.
pub(super) fn all(directory: &Path) -> Result<Vec<Recording>> {
    let mut found = Vec::new();
    if !directory.exists() {
        return Ok(found);
    }
    for kernel in names(directory)? {
        for file in names(&directory.join(&kernel))? {
            if let Some(scenario) = file.strip_suffix(".ktrace") {
                found.push(Recording::new(directory, &kernel, scenario));
            }
        }
    }
    Ok(found)
}

/// What a directory holds, sorted.
fn names(directory: &Path) -> Result<Vec<String>> {
    let listing = || format!("listing {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(listing)? {
        let name = entry.with_context(listing)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Keeps the recordings of runs, given by kernel and scenario, that lie in `results`; of too many, the shortest.
/// Says which are not kept.
pub(super) fn keep<'a>(
    place: &Place,
    results: &Path,
    passed: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<()> {
    let directory = directory(&place.workspace);
    let (mut kept, mut without) = (0, 0);
    for (kernel, scenario) in passed {
        let from = results.join(kernel).join(scenario);
        let recording = from.join(RECORDING);
        if !recording.exists() {
            without += 1;
            continue;
        }
        let to = Recording::new(&directory, kernel, scenario);
        let smaller = repack(&recording)?;
        let length = u64::try_from(smaller.len()).unwrap_or(u64::MAX);
        if length > LONGEST_BYTES {
            println!(
                "not kept: {}, {length} bytes (at most {LONGEST_BYTES})",
                to.name()
            );
            // What was kept before is of another run, and no longer what the scenario is.
            if to.path.exists() {
                to.remove()?;
            }
            continue;
        }
        let events = from.join("events.jsonl");
        let events =
            fs::read_to_string(&events).with_context(|| format!("reading {}", events.display()))?;
        let parent = directory.join(kernel);
        fs::create_dir_all(&parent).with_context(|| format!("creating {}", parent.display()))?;
        write_atomically(&to.path, &smaller)?;
        to.write_events(&events)?;
        kept += 1;
    }
    let (total, too_many) = shortest(&directory)?;
    for recording in &too_many {
        println!("not kept: {}, all together are too long", recording.name());
        recording.remove()?;
    }
    println!(
        "kept {kept} recordings, {without} runs have none; all that are kept: {} KiB",
        total.div_ceil(1024)
    );
    Ok(())
}

/// The length of the shortest recordings that are not too long together, and the others.
fn shortest(directory: &Path) -> Result<(u64, Vec<Recording>)> {
    let mut by_length = Vec::new();
    for recording in all(directory)? {
        by_length.push((recording.bytes()?, recording));
    }
    by_length.sort();
    let mut total = 0;
    let mut too_many = Vec::new();
    for (length, recording) in by_length {
        if total + length > TOTAL_BYTES {
            too_many.push(recording);
        } else {
            total += length;
        }
    }
    Ok((total, too_many))
}

/// The same lines in fewer chunks: a daemon writes one every second, which compresses worse.
fn repack(path: &Path) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    File::open(path)
        .and_then(|file| MultiGzDecoder::new(file).read_to_end(&mut lines))
        .with_context(|| format!("reading {}", path.display()))?;
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        chunk.extend_from_slice(line);
        if chunk.len() >= CHUNK_BYTES {
            chunks.extend(pack(&std::mem::take(&mut chunk))?);
        }
    }
    if !chunk.is_empty() {
        chunks.extend(pack(&chunk)?);
    }
    Ok(chunks)
}

/// One gzip member, the same for the same bytes.
fn pack(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .context("compressing")
}
