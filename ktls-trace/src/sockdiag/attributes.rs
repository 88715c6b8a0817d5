//! Walks netlink attributes (`struct nlattr`), taking what is whole and stopping at what is not.

use netlink_packet_core::NLA_TYPE_MASK;

/// Length and type in front of each attribute.
const HEADER_BYTES: usize = 4;

/// Attributes start at multiples of this.
const ALIGN: usize = 4;

/// The attributes in some bytes: each one's type, without its flags, and its value. It ends at the first
/// attribute that is cut off or too short to be one.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(HEADER_BYTES..length)?;
        rest = rest
            .get(length.next_multiple_of(ALIGN)..)
            .unwrap_or_default();
        Some((kind, value))
    })
}

/// The native-endian number at an offset, if the bytes reach that far.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// The native-endian number at an offset, if the bytes reach that far.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One attribute, padded.
    pub(in super::super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(HEADER_BYTES + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    #[test]
    fn values_are_found_whatever_their_padding_and_flags() {
        let bytes = [
            attribute(1, b"tls\0"),
            attribute(0x8002, &[1, 2, 3]),
            attribute(7, &[]),
        ]
        .concat();
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(1, b"tls\0".as_slice()), (2, &[1, 2, 3]), (7, &[])]);
    }

    #[test]
    fn a_cut_attribute_ends_the_walk() {
        let bytes = [attribute(1, &[1; 8]), attribute(2, &[2; 8])].concat();
        for length in 12..24 {
            assert_eq!(attributes(&bytes[..length]).count(), 1, "{length} bytes");
        }
        assert_eq!(attributes(&bytes).count(), 2);
    }

    #[test]
    fn a_length_shorter_than_its_header_ends_the_walk() {
        assert_eq!(attributes(&[0, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / HEADER_BYTES);
        }
    }
}
