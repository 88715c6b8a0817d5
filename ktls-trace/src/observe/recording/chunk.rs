//! One chunk: lines as a gzip member with its own checksum.

use std::io::{self, BufRead, Read as _, Write as _};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};

/// The first byte of a gzip member, all that a source of any kind is sure to show at first.
pub(super) const MAGIC: &[u8] = b"\x1f";
/// Lines are gathered up to this many bytes.
pub(super) const FULL_BYTES: usize = 256 * 1024;
/// More than this is in no chunk: one line past [`FULL_BYTES`] is short of it by far.
const LONGEST_BYTES: u64 = 4 * 1024 * 1024;

/// What came of reading a chunk.
pub(super) enum Read {
    /// Its lines.
    Lines(Vec<u8>),
    /// There are no more chunks.
    NoMore,
    /// The file ends within it.
    CutShort,
    /// It is damaged.
    Damaged(String),
    /// It could not be read.
    Failed(io::Error),
}

/// Compresses lines.
pub(super) fn pack(lines: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(lines)?;
    encoder.finish()
}

/// Takes the next chunk. Nothing of it is handed out before its checksum was right.
pub(super) fn next(source: &mut impl BufRead) -> Read {
    match source.fill_buf() {
        Ok([]) => return Read::NoMore,
        Ok(_) => {}
        Err(error) => return Read::Failed(error),
    }
    let mut lines = Vec::new();
    // The limit keeps a damaged file from filling the memory.
    let mut decoder = GzDecoder::new(source).take(LONGEST_BYTES);
    match decoder.read_to_end(&mut lines) {
        Ok(_) if decoder.limit() == 0 => Read::Damaged("a chunk is too long".to_owned()),
        Ok(_) => Read::Lines(lines),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Read::CutShort,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            ) =>
        {
            Read::Damaged(error.to_string())
        }
        Err(error) => Read::Failed(error),
    }
}
