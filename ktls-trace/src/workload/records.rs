//! Counts TLS records in a byte stream without decrypting them: the type, version and length in
//! front of each record are in clear.

/// Type, version and length: the clear header of each record (RFC 8446, 5.1).
const HEADER_BYTES: usize = 5;

/// Counts the records of a stream that arrives in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct RecordCounter {
    /// Header bytes of the record under way.
    header: [u8; HEADER_BYTES],
    /// How many of them are there.
    header_bytes: usize,
    /// Bytes of the record's body still to come.
    body_left: usize,
    /// Complete records so far.
    complete: u64,
    /// Bytes of the complete records, framing included.
    complete_bytes: u64,
}

impl RecordCounter {
    /// Takes the next bytes of the stream.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.header_bytes < HEADER_BYTES {
                let take = bytes.len().min(HEADER_BYTES - self.header_bytes);
                self.header[self.header_bytes..self.header_bytes + take]
                    .copy_from_slice(&bytes[..take]);
                self.header_bytes += take;
                bytes = &bytes[take..];
                if self.header_bytes < HEADER_BYTES {
                    return;
                }
                self.body_left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
            }
            let take = bytes.len().min(self.body_left);
            self.body_left -= take;
            bytes = &bytes[take..];
            if self.body_left == 0 {
                self.complete += 1;
                self.complete_bytes += HEADER_BYTES as u64
                    + u64::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.header_bytes = 0;
            }
        }
    }

    /// Complete records so far.
    pub(super) fn complete(&self) -> u64 {
        self.complete
    }

    /// Bytes of the complete records, framing included.
    pub(super) fn complete_bytes(&self) -> u64 {
        self.complete_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: usize) -> Vec<u8> {
        let length = u16::try_from(body).unwrap().to_be_bytes();
        let mut bytes = vec![0x17, 3, 3, length[0], length[1]];
        bytes.resize(HEADER_BYTES + body, 0xa5);
        bytes
    }

    #[test]
    fn records_are_counted_however_the_stream_is_cut() {
        let stream: Vec<u8> = [16401, 1, 300, 16401]
            .into_iter()
            .flat_map(record)
            .collect();
        for piece in [1, 2, 3, 5, 7, 1000, 16406, stream.len()] {
            let mut counter = RecordCounter::default();
            stream.chunks(piece).for_each(|bytes| counter.feed(bytes));
            assert_eq!(counter.complete(), 4, "in pieces of {piece}");
            assert_eq!(counter.complete_bytes(), stream.len() as u64);
        }
    }

    #[test]
    fn an_unfinished_record_is_not_counted() {
        let mut counter = RecordCounter::default();
        counter.feed(&record(16401)[..16405]);
        assert_eq!(counter.complete(), 0);
        counter.feed(&[0]);
        assert_eq!(counter.complete(), 1);
    }
}
