//! BTF as it is stored (`include/uapi/linux/btf.h`): decoded into plain types and encoded again, nothing interpreted.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// Bytes of a header without extensions.
const HEADER_BYTES: usize = 24;

/// The kinds that pruning tells apart.
pub(crate) mod kind {
    pub(crate) const INT: u8 = 1;
    pub(crate) const PTR: u8 = 2;
    pub(crate) const ARRAY: u8 = 3;
    pub(crate) const STRUCT: u8 = 4;
    pub(crate) const UNION: u8 = 5;
    pub(crate) const ENUM: u8 = 6;
    pub(crate) const FWD: u8 = 7;
    pub(crate) const TYPEDEF: u8 = 8;
    pub(crate) const VOLATILE: u8 = 9;
    pub(crate) const CONST: u8 = 10;
    pub(crate) const RESTRICT: u8 = 11;
    pub(crate) const FUNC: u8 = 12;
    pub(crate) const FUNC_PROTO: u8 = 13;
    pub(crate) const VAR: u8 = 14;
    pub(crate) const DATASEC: u8 = 15;
    pub(crate) const FLOAT: u8 = 16;
    pub(crate) const DECL_TAG: u8 = 17;
    pub(crate) const TYPE_TAG: u8 = 18;
    pub(crate) const ENUM64: u8 = 19;
}

/// One type. Its id is its position, counted on from the base's in split BTF; id 0 is `void`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawType {
    /// Empty if it has none.
    pub(crate) name: String,
    /// One of [`kind`].
    pub(crate) kind: u8,
    /// For structs: offsets carry a bit-field's width. For others see the header file.
    pub(crate) kind_flag: bool,
    /// How many elements, or a function's linkage.
    pub(crate) vlen: u16,
    /// Size in bytes or the id of another type, as the kind has it.
    pub(crate) size_or_type: u32,
    /// What follows.
    pub(crate) rest: Rest,
}

/// What follows the common part of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing, or words of the kind's own that name no type and no string.
    Words(Vec<u32>),
    /// Of an array.
    Array {
        element: u32,
        index: u32,
        count: u32,
    },
    /// Of a struct or union: members. Of a prototype: arguments, without an offset.
    Parts(Vec<Part>),
    /// Of an enum: names with the words of their values.
    Values(Vec<(String, Vec<u32>)>),
    /// Of a section: variables with offset and size.
    Variables(Vec<[u32; 3]>),
}

/// A member or an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Empty if it has none.
    pub(crate) name: String,
    /// Id of its type.
    pub(crate) of: u32,
    /// A member's offset in bits, with a bit-field's width in the upper byte if [`RawType::kind_flag`] is set.
    pub(crate) offset: u32,
}

/// A set of types: a kernel's own, or a module's on top of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TypeSet {
    /// In the order of their ids.
    pub(crate) types: Vec<RawType>,
    /// Id of the first: 1, or one past the base's last.
    pub(crate) first_id: u32,
    /// The string section, which split BTF on top counts on from.
    pub(crate) strings: Vec<u8>,
}

impl TypeSet {
    /// Decodes a kernel's own BTF.
    pub(crate) fn decode(blob: &[u8]) -> Result<Self> {
        Self::decode_after(blob, &[], 1)
    }

    /// Decodes a module's BTF, which counts ids and strings on from `base`.
    pub(crate) fn decode_split(blob: &[u8], base: &Self) -> Result<Self> {
        Self::decode_after(blob, &base.strings, base.end())
    }

    /// One past the last id.
    pub(crate) fn end(&self) -> u32 {
        self.first_id + u32::try_from(self.types.len()).unwrap_or(u32::MAX)
    }

    fn decode_after(blob: &[u8], base_strings: &[u8], first_id: u32) -> Result<Self> {
        let header = Header::read(blob)?;
        let strings = header.strings(blob)?;
        let mut reader = Reader {
            words: header.types(blob)?,
            base_strings,
            strings,
        };
        let mut types = Vec::new();
        while !reader.words.is_empty() {
            let id = types.len() + first_id as usize;
            types.push(reader.read_type().with_context(|| format!("type {id}"))?);
        }
        Ok(Self {
            types,
            first_id,
            strings: strings.to_vec(),
        })
    }

    /// Encodes the types; `base_strings` is the string section of the base that split BTF lies on, empty for a kernel's own.
    /// Gives the blob and its string section.
    pub(crate) fn encode(types: &[RawType], base_strings: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut writer = Writer {
            words: Vec::new(),
            base_bytes: base_strings.len(),
            strings: Vec::new(),
            offsets: offsets(base_strings),
        };
        if base_strings.is_empty() {
            // A kernel's own starts with the empty string; split BTF finds that in its base.
            writer.add_string("");
        }
        for one in types {
            writer.write_type(one)?;
        }
        let Writer { words, strings, .. } = writer;
        let length = |bytes: usize| u32::try_from(bytes).context("BTF past 4 GiB");
        let mut blob = Vec::new();
        blob.extend_from_slice(&MAGIC.to_le_bytes());
        blob.extend_from_slice(&[VERSION, 0]);
        for number in [
            length(HEADER_BYTES)?,
            0,
            length(words.len())?,
            length(words.len())?,
            length(strings.len())?,
        ] {
            blob.extend_from_slice(&number.to_le_bytes());
        }
        blob.extend_from_slice(&words);
        blob.extend_from_slice(&strings);
        Ok((blob, strings))
    }
}

/// Where the sections of a blob lie, in bytes from its start.
pub(crate) struct Header {
    types: (usize, usize),
    strings: (usize, usize),
}

impl Header {
    /// Reads the header at the start of `blob`.
    pub(crate) fn read(blob: &[u8]) -> Result<Self> {
        let word = |at: usize| -> Result<usize> {
            let bytes = blob.get(at..at + 4).context("the header is cut short")?;
            Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
        };
        ensure!(
            blob.get(..3) == Some(&[0x9f, 0xeb, VERSION]),
            "not little-endian BTF of version {VERSION}"
        );
        let header = word(4)?;
        ensure!(header >= HEADER_BYTES, "a header of {header} bytes");
        Ok(Self {
            types: (header + word(8)?, word(12)?),
            strings: (header + word(16)?, word(20)?),
        })
    }

    /// The whole blob's length, if nothing follows its last section.
    pub(crate) fn blob_bytes(&self) -> usize {
        (self.types.0 + self.types.1).max(self.strings.0 + self.strings.1)
    }

    fn types<'a>(&self, blob: &'a [u8]) -> Result<&'a [u8]> {
        let (start, length) = self.types;
        blob.get(start..start + length)
            .context("the types reach past the end")
    }

    fn strings<'a>(&self, blob: &'a [u8]) -> Result<&'a [u8]> {
        let (start, length) = self.strings;
        blob.get(start..start + length)
            .context("the strings reach past the end")
    }
}

struct Reader<'a> {
    /// What is not read yet.
    words: &'a [u8],
    base_strings: &'a [u8],
    strings: &'a [u8],
}

impl Reader<'_> {
    fn word(&mut self) -> Result<u32> {
        let (bytes, rest) = self
            .words
            .split_first_chunk::<4>()
            .context("the types end inside one")?;
        self.words = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn string(&mut self) -> Result<String> {
        let offset = self.word()? as usize;
        let bytes = match offset.checked_sub(self.base_strings.len()) {
            Some(offset) => self.strings.get(offset..),
            None => self.base_strings.get(offset..),
        };
        let bytes = bytes.with_context(|| format!("no string at {offset}"))?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn read_type(&mut self) -> Result<RawType> {
        let name = self.string()?;
        let info = self.word()?;
        let size_or_type = self.word()?;
        let [low, high, _, top] = info.to_le_bytes();
        let vlen = u16::from_le_bytes([low, high]);
        let kind = top & 0x1f;
        let rest = match kind {
            kind::PTR
            | kind::FWD
            | kind::TYPEDEF
            | kind::VOLATILE
            | kind::CONST
            | kind::RESTRICT
            | kind::FUNC
            | kind::FLOAT
            | kind::TYPE_TAG => Rest::Words(Vec::new()),
            kind::INT | kind::VAR | kind::DECL_TAG => Rest::Words(vec![self.word()?]),
            kind::ARRAY => Rest::Array {
                element: self.word()?,
                index: self.word()?,
                count: self.word()?,
            },
            kind::STRUCT | kind::UNION | kind::FUNC_PROTO => Rest::Parts(
                (0..vlen)
                    .map(|_| {
                        Ok(Part {
                            name: self.string()?,
                            of: self.word()?,
                            offset: if kind == kind::FUNC_PROTO {
                                0
                            } else {
                                self.word()?
                            },
                        })
                    })
                    .collect::<Result<_>>()?,
            ),
            kind::ENUM | kind::ENUM64 => Rest::Values(
                (0..vlen)
                    .map(|_| {
                        let name = self.string()?;
                        let words = if kind == kind::ENUM { 1 } else { 2 };
                        let value = (0..words).map(|_| self.word()).collect::<Result<_>>()?;
                        Ok((name, value))
                    })
                    .collect::<Result<_>>()?,
            ),
            kind::DATASEC => Rest::Variables(
                (0..vlen)
                    .map(|_| Ok([self.word()?, self.word()?, self.word()?]))
                    .collect::<Result<_>>()?,
            ),
            _ => bail!("kind {kind}, which is not known here"),
        };
        Ok(RawType {
            name,
            kind,
            kind_flag: top & 0x80 != 0,
            vlen,
            size_or_type,
            rest,
        })
    }
}

struct Writer {
    words: Vec<u8>,
    /// Length of the strings that ours count on from.
    base_bytes: usize,
    strings: Vec<u8>,
    /// Where each string starts, the base's included.
    offsets: BTreeMap<String, usize>,
}

impl Writer {
    /// Adds a string and gives its offset.
    fn add_string(&mut self, text: &str) -> usize {
        let offset = self.base_bytes + self.strings.len();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        self.offsets.insert(text.to_owned(), offset);
        offset
    }

    fn word(&mut self, word: u32) {
        self.words.extend_from_slice(&word.to_le_bytes());
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.word(*word);
        }
    }

    /// Writes the offset of a string, which is added unless it is there.
    fn string(&mut self, text: &str) -> Result<()> {
        let offset = match self.offsets.get(text) {
            Some(offset) => *offset,
            None => self.add_string(text),
        };
        self.word(u32::try_from(offset).context("strings past 4 GiB")?);
        Ok(())
    }

    fn write_type(&mut self, one: &RawType) -> Result<()> {
        let RawType {
            name,
            kind,
            kind_flag,
            vlen,
            size_or_type,
            rest,
        } = one;
        self.string(name)?;
        let flag = if *kind_flag { 1 << 31 } else { 0 };
        self.word(u32::from(*vlen) | u32::from(*kind) << 24 | flag);
        self.word(*size_or_type);
        match rest {
            Rest::Words(words) => self.words(words),
            Rest::Array {
                element,
                index,
                count,
            } => self.words(&[*element, *index, *count]),
            Rest::Parts(parts) => {
                for Part { name, of, offset } in parts {
                    self.string(name)?;
                    self.word(*of);
                    if *kind != kind::FUNC_PROTO {
                        self.word(*offset);
                    }
                }
            }
            Rest::Values(values) => {
                for (name, words) in values {
                    self.string(name)?;
                    self.words(words);
                }
            }
            Rest::Variables(variables) => {
                for words in variables {
                    self.words(words);
                }
            }
        }
        Ok(())
    }
}

/// Where each string of a section starts.
fn offsets(section: &[u8]) -> BTreeMap<String, usize> {
    let mut at = 0;
    let mut offsets = BTreeMap::new();
    for text in section.split_inclusive(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(text.strip_suffix(b"\0").unwrap_or(text));
        offsets.insert(name.into_owned(), at);
        at += text.len();
    }
    offsets
}
