//! Where a run serves, as the command line names it.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: needs a path".to_owned())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        // A port alone is on loopback: whoever wants more has to say so.
        let port = text.strip_prefix(':').unwrap_or(text);
        if let Ok(port) = port.parse::<u16>() {
            return Ok(Self::Tcp(([127, 0, 0, 1], port).into()));
        }
        text.parse().map(Self::Tcp).map_err(|_other| {
            format!("{text} is no ADDRESS:PORT (IPv6 in brackets), PORT or unix:PATH")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_a_port_alone_is_on_loopback() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        for (text, expected) in [
            ("9190", tcp("127.0.0.1:9190")),
            (":9190", tcp("127.0.0.1:9190")),
            ("0.0.0.0:80", tcp("0.0.0.0:80")),
            ("[::1]:80", tcp("[::1]:80")),
            ("unix:/run/x", Address::Unix("/run/x".into())),
        ] {
            assert_eq!(text.parse::<Address>(), Ok(expected), "{text}");
        }
        for text in ["", "localhost", "unix:", "1.2.3.4", "70000"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
