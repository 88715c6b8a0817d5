//! Turns a connected sender into a kernel-TLS one. No handshake: the key is fixed and the receiver throws
//! the records away, so nothing secret ever passes through it.

use std::net::TcpStream;

use nix::sys::socket::{
    setsockopt,
    sockopt::{TcpTlsTx, TcpUlp, TlsCryptoInfo},
};

use super::{
    Error,
    config::{Cipher, TlsVersion},
};

/// Every byte of every key; there is nothing to protect.
const KEY_BYTE: u8 = 0x2a;

/// Puts the TLS layer on the socket and gives it a transmit key.
pub(super) fn enable(sender: &TcpStream, version: TlsVersion, cipher: Cipher) -> Result<(), Error> {
    setsockopt(sender, TcpUlp::<&[u8]>::default(), &b"tls".as_slice())
        .map_err(|source| Error::NoKernelTls { source })?;
    setsockopt(sender, TcpTlsTx, &crypto_info(version, cipher)).map_err(|source| Error::Cipher {
        tls: version.name(),
        cipher: cipher.name(),
        source,
    })
}

/// The transmit parameters (`struct tls12_crypto_info_*` of linux/tls.h, which serve TLS 1.3 as well).
fn crypto_info(version: TlsVersion, cipher: Cipher) -> TlsCryptoInfo {
    let version = match version {
        TlsVersion::V1_2 => libc::TLS_1_2_VERSION,
        TlsVersion::V1_3 => libc::TLS_1_3_VERSION,
    };
    match cipher {
        Cipher::Aes128Gcm => TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
            info: libc::tls_crypto_info {
                version,
                cipher_type: libc::TLS_CIPHER_AES_GCM_128,
            },
            iv: [0; libc::TLS_CIPHER_AES_GCM_128_IV_SIZE],
            key: [KEY_BYTE; libc::TLS_CIPHER_AES_GCM_128_KEY_SIZE],
            salt: [0; libc::TLS_CIPHER_AES_GCM_128_SALT_SIZE],
            rec_seq: [0; libc::TLS_CIPHER_AES_GCM_128_REC_SEQ_SIZE],
        }),
        Cipher::Aes256Gcm => TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
            info: libc::tls_crypto_info {
                version,
                cipher_type: libc::TLS_CIPHER_AES_GCM_256,
            },
            iv: [0; libc::TLS_CIPHER_AES_GCM_256_IV_SIZE],
            key: [KEY_BYTE; libc::TLS_CIPHER_AES_GCM_256_KEY_SIZE],
            salt: [0; libc::TLS_CIPHER_AES_GCM_256_SALT_SIZE],
            rec_seq: [0; libc::TLS_CIPHER_AES_GCM_256_REC_SEQ_SIZE],
        }),
        Cipher::Chacha20Poly1305 => {
            TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                info: libc::tls_crypto_info {
                    version,
                    cipher_type: libc::TLS_CIPHER_CHACHA20_POLY1305,
                },
                iv: [0; libc::TLS_CIPHER_CHACHA20_POLY1305_IV_SIZE],
                key: [KEY_BYTE; libc::TLS_CIPHER_CHACHA20_POLY1305_KEY_SIZE],
                salt: [0; libc::TLS_CIPHER_CHACHA20_POLY1305_SALT_SIZE],
                rec_seq: [0; libc::TLS_CIPHER_CHACHA20_POLY1305_REC_SEQ_SIZE],
            })
        }
    }
}
