//! The stream a guest sends to the host over its virtio port: frames of one kind byte, a little-endian length and that many bytes.

use std::io::{self, Read, Write};

/// Longest payload a frame may carry. Longer ones mean the stream is out of step.
pub const MAX_PAYLOAD_BYTES: u32 = 64 * 1024 * 1024;

/// One message from guest to host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The guest has booted and starts its job; the payload is its uptime in milliseconds, as text.
    Ready(String),
    /// Bytes the job wrote to its standard output.
    Stdout(Vec<u8>),
    /// Bytes the job wrote to its standard error.
    Stderr(Vec<u8>),
    /// A scenario begins; the payload is its name.
    ScenarioStarted(String),
    /// A scenario has ended; the payload is a [`crate::job::ScenarioResult`] in JSON.
    ScenarioResult(Vec<u8>),
    /// A file the job left below `/out`: its path there, and its contents.
    File {
        /// Path relative to `/out`.
        path: String,
        /// The whole contents.
        contents: Vec<u8>,
    },
    /// The job has ended with this status; nothing follows.
    Exit(i32),
}

impl Frame {
    /// Writes the frame in one `write_all`, so that frames of several threads under one lock never mix.
    ///
    /// # Errors
    ///
    /// Whatever `sink` fails with; `InvalidInput` for a payload past [`MAX_PAYLOAD_BYTES`].
    pub fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        let mut joined = Vec::new();
        let status;
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Ready(text) => (1, text.as_bytes()),
            Self::Stdout(bytes) => (2, bytes),
            Self::Stderr(bytes) => (3, bytes),
            Self::ScenarioStarted(name) => (4, name.as_bytes()),
            Self::ScenarioResult(json) => (5, json),
            Self::File { path, contents } => {
                joined.extend_from_slice(path.as_bytes());
                joined.push(0);
                joined.extend_from_slice(contents);
                (6, &joined)
            }
            Self::Exit(code) => {
                status = code.to_le_bytes();
                (7, &status)
            }
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if length > MAX_PAYLOAD_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a frame of {} bytes is too long", payload.len()),
            ));
        }
        let mut message = Vec::with_capacity(payload.len() + 5);
        message.push(kind);
        message.extend_from_slice(&length.to_le_bytes());
        message.extend_from_slice(payload);
        sink.write_all(&message)
    }

    /// Reads one frame; `None` at a clean end of the stream.
    ///
    /// # Errors
    ///
    /// `InvalidData` when the bytes are no frame, `UnexpectedEof` when the stream ends inside one.
    pub fn read_from(source: &mut impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0; 1];
        if source.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        source.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_PAYLOAD_BYTES {
            return Err(invalid(format!("a frame claims {length} bytes")));
        }
        let mut payload = vec![0; length as usize];
        source.read_exact(&mut payload)?;
        let text = |payload: Vec<u8>| String::from_utf8_lossy(&payload).into_owned();
        let frame = match kind[0] {
            1 => Self::Ready(text(payload)),
            2 => Self::Stdout(payload),
            3 => Self::Stderr(payload),
            4 => Self::ScenarioStarted(text(payload)),
            5 => Self::ScenarioResult(payload),
            6 => {
                let end = payload
                    .iter()
                    .position(|byte| *byte == 0)
                    .ok_or_else(|| invalid("a file frame without a path".to_owned()))?;
                let contents = payload.split_off(end + 1);
                payload.pop();
                Self::File {
                    path: text(payload),
                    contents,
                }
            }
            7 => {
                let code = payload.try_into().map_err(|payload: Vec<u8>| {
                    invalid(format!("an exit status of {} bytes", payload.len()))
                })?;
                Self::Exit(i32::from_le_bytes(code))
            }
            other => return Err(invalid(format!("unknown frame kind {other}"))),
        };
        Ok(Some(frame))
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        let frames = [
            Frame::Ready("1234".to_owned()),
            Frame::Stdout(b"out\r\n\0".to_vec()),
            Frame::Stderr(Vec::new()),
            Frame::ScenarioStarted("a".to_owned()),
            Frame::ScenarioResult(b"{}".to_vec()),
            Frame::File {
                path: "a/b".to_owned(),
                contents: b"x\0y".to_vec(),
            },
            Frame::Exit(-3),
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            frame.write_to(&mut wire).unwrap();
        }
        let mut source = wire.as_slice();
        for frame in frames {
            assert_eq!(Frame::read_from(&mut source).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read_from(&mut source).unwrap(), None);
    }

    #[test]
    fn a_stream_cut_inside_a_frame_is_an_error() {
        let mut wire = Vec::new();
        Frame::Stdout(b"abc".to_vec()).write_to(&mut wire).unwrap();
        wire.pop();
        assert_eq!(
            Frame::read_from(&mut wire.as_slice()).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn foreign_bytes_are_an_error() {
        let error = Frame::read_from(&mut b"login: root\n".as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
