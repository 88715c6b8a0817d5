//! `INET_DIAG_ULP_INFO`: which upper-layer protocol a socket carries and, if it is TLS, how
//! (`tcp_diag_put_ulp`, `tls_get_info`). The kernel sends it without `NLA_F_NESTED`.

use std::fmt;

use serde::{Serialize, Serializer};

use super::attributes::{attributes, u16_at};

/// `INET_ULP_INFO_NAME`.
const NAME: u16 = 1;
/// `INET_ULP_INFO_TLS`.
const TLS: u16 = 2;

/// `TLS_INFO_*` of include/uapi/linux/tls.h.
const TLS_VERSION: u16 = 1;
const TLS_CIPHER: u16 = 2;
const TLS_TXCONF: u16 = 3;
const TLS_RXCONF: u16 = 4;
const TLS_ZC_RO_TX: u16 = 5;
const TLS_RX_NO_PAD: u16 = 6;
const TLS_TX_MAX_PAYLOAD_LEN: u16 = 7;

/// The upper-layer protocol on a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ulp {
    /// Its name: `tls`, `mptcp`, `espintcp`, `smc`, …
    pub name: String,
    /// Details, if it is TLS and the kernel gave any.
    pub tls: Option<TlsInfo>,
}

/// What the kernel tells of TLS on a socket. A field is `None` where it was not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsInfo {
    /// Version of the protocol.
    pub version: Option<TlsVersion>,
    /// Cipher.
    pub cipher: Option<TlsCipher>,
    /// Who encrypts what is sent.
    pub tx: Option<TlsConf>,
    /// Who decrypts what is received.
    pub rx: Option<TlsConf>,
    /// `TLS_TX_ZEROCOPY_RO` is set.
    pub zerocopy_sendfile: bool,
    /// `TLS_RX_EXPECT_NO_PAD` is set.
    pub rx_no_pad: bool,
    /// `TLS_TX_MAX_PAYLOAD_LEN`: most payload in one record, in bytes.
    pub tx_max_payload: Option<u16>,
}

impl Ulp {
    /// Reads the attribute's value. `None` if it names no protocol.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut name = None;
        let mut tls = None;
        for (kind, value) in attributes(bytes) {
            match kind {
                NAME => name = text(value),
                TLS => tls = Some(TlsInfo::parse(value)),
                _ => {}
            }
        }
        Some(Self { name: name?, tls })
    }

    /// Whether it is kernel TLS.
    pub fn is_tls(&self) -> bool {
        self.name == "tls"
    }
}

impl TlsInfo {
    fn parse(bytes: &[u8]) -> Self {
        let mut info = Self::default();
        for (kind, value) in attributes(bytes) {
            match kind {
                TLS_VERSION => info.version = u16_at(value, 0).map(TlsVersion::from),
                TLS_CIPHER => info.cipher = u16_at(value, 0).map(TlsCipher::from),
                TLS_TXCONF => info.tx = u16_at(value, 0).map(TlsConf::from),
                TLS_RXCONF => info.rx = u16_at(value, 0).map(TlsConf::from),
                TLS_ZC_RO_TX => info.zerocopy_sendfile = true,
                TLS_RX_NO_PAD => info.rx_no_pad = true,
                TLS_TX_MAX_PAYLOAD_LEN => info.tx_max_payload = u16_at(value, 0),
                _ => {}
            }
        }
        info
    }
}

/// A string that may or may not end with its NUL.
fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next()?;
    if bytes.is_empty() {
        return None;
    }
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Declares an enum of the kernel's numbers with the names we give them; a number that is not known stays one.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A number this version of the program has no name for.
            Other(u16),
        }

        impl From<u16> for $name {
            fn from(number: u16) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.pad($text),)*
                    Self::Other(number) => f.pad(&number.to_string()),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

numbered! {
    /// Version of the TLS protocol (`TLS_1_2_VERSION`, `TLS_1_3_VERSION`).
    TlsVersion {
        /// TLS 1.2.
        V1_2 = 0x0303, "1.2";
        /// TLS 1.3.
        V1_3 = 0x0304, "1.3";
    }
}

numbered! {
    /// Cipher of a TLS socket (`TLS_CIPHER_*`).
    TlsCipher {
        /// AES-GCM with a 128-bit key.
        AesGcm128 = 51, "aes-gcm-128";
        /// AES-GCM with a 256-bit key.
        AesGcm256 = 52, "aes-gcm-256";
        /// AES-CCM with a 128-bit key.
        AesCcm128 = 53, "aes-ccm-128";
        /// ChaCha20-Poly1305.
        Chacha20Poly1305 = 54, "chacha20-poly1305";
        /// SM4-GCM.
        Sm4Gcm = 55, "sm4-gcm";
        /// SM4-CCM.
        Sm4Ccm = 56, "sm4-ccm";
        /// ARIA-GCM with a 128-bit key.
        AriaGcm128 = 57, "aria-gcm-128";
        /// ARIA-GCM with a 256-bit key.
        AriaGcm256 = 58, "aria-gcm-256";
    }
}

numbered! {
    /// Who does the cryptography of one direction (`TLS_CONF_*`).
    TlsConf {
        /// Nobody in the kernel: no key was given for it.
        Base = 1, "base";
        /// The kernel.
        Sw = 2, "sw";
        /// The network device.
        Hw = 3, "hw";
        /// The network device, whole records.
        HwRecord = 4, "hw-record";
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::attributes::tests::attribute, *};

    fn number(kind: u16, number: u16) -> Vec<u8> {
        attribute(kind, &number.to_ne_bytes())
    }

    fn tls(nested_flag: u16, cipher: u16) -> Vec<u8> {
        let info = [
            number(TLS_VERSION, 0x0304),
            number(TLS_CIPHER, cipher),
            number(TLS_TXCONF, 2),
            number(TLS_RXCONF, 1),
            attribute(TLS_ZC_RO_TX, &[]),
        ]
        .concat();
        [
            attribute(NAME, b"tls\0"),
            attribute(TLS | nested_flag, &info),
        ]
        .concat()
    }

    #[test]
    fn tls_is_read_with_and_without_the_nested_flag() {
        for flag in [0, 0x8000] {
            let ulp = Ulp::parse(&tls(flag, 51)).unwrap();
            assert!(ulp.is_tls());
            let info = ulp.tls.unwrap();
            assert_eq!(info.version, Some(TlsVersion::V1_3));
            assert_eq!(info.cipher, Some(TlsCipher::AesGcm128));
            assert_eq!((info.tx, info.rx), (Some(TlsConf::Sw), Some(TlsConf::Base)));
            assert!(info.zerocopy_sendfile && !info.rx_no_pad);
        }
    }

    #[test]
    fn every_cipher_of_the_header_has_a_name_and_others_stay_numbers() {
        let names: Vec<String> = (50..60)
            .map(|number| TlsCipher::from(number).to_string())
            .collect();
        let expected = [
            "50",
            "aes-gcm-128",
            "aes-gcm-256",
            "aes-ccm-128",
            "chacha20-poly1305",
            "sm4-gcm",
            "sm4-ccm",
            "aria-gcm-128",
            "aria-gcm-256",
            "59",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn another_protocol_has_no_tls() {
        let ulp = Ulp::parse(&attribute(NAME, b"mptcp\0")).unwrap();
        assert_eq!((ulp.is_tls(), ulp.tls), (false, None));
    }

    #[test]
    fn a_cut_attribute_costs_only_itself() {
        let whole = tls(0, 52);
        for length in 0..whole.len() {
            let Some(ulp) = Ulp::parse(&whole[..length]) else {
                assert!(length < 8, "{length} bytes");
                continue;
            };
            assert!(ulp.is_tls());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ulp = Ulp::parse(&bytes);
        }
    }
}
