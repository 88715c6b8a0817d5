//! Turns a connected sender into a kernel-TLS one. No handshake: the key is fixed and the receiver throws
//! the records away, so nothing secret ever passes through it.

use std::net::TcpStream;

use nix::{
    setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::TcpUlp},
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
    let number = match version {
        TlsVersion::V1_2 => libc::TLS_1_2_VERSION,
        TlsVersion::V1_3 => libc::TLS_1_3_VERSION,
    };
    // From one of the `struct tls12_crypto_info_*` of linux/tls.h, which serve TLS 1.3 as well. They differ in the
    // lengths of their members alone. nix's own `TcpTlsTx` knows three of them.
    macro_rules! set_key {
        ($info:ident, $cipher_type:ident) => {{
            sockopt_impl!(TlsTx, SetOnly, libc::SOL_TLS, libc::TLS_TX, libc::$info);
            let info = libc::tls_crypto_info {
                version: number,
                cipher_type: libc::$cipher_type,
            };
            let key = libc::$info {
                info,
                iv: [0; _],
                key: [KEY_BYTE; _],
                salt: [0; _],
                rec_seq: [0; _],
            };
            setsockopt(sender, TlsTx, &key)
        }};
    }
    let set = match cipher {
        Cipher::Aes128Gcm => set_key!(tls12_crypto_info_aes_gcm_128, TLS_CIPHER_AES_GCM_128),
        Cipher::Aes256Gcm => set_key!(tls12_crypto_info_aes_gcm_256, TLS_CIPHER_AES_GCM_256),
        Cipher::Chacha20Poly1305 => set_key!(
            tls12_crypto_info_chacha20_poly1305,
            TLS_CIPHER_CHACHA20_POLY1305
        ),
        Cipher::Aes128Ccm => set_key!(tls12_crypto_info_aes_ccm_128, TLS_CIPHER_AES_CCM_128),
        Cipher::Sm4Gcm => set_key!(tls12_crypto_info_sm4_gcm, TLS_CIPHER_SM4_GCM),
        Cipher::Sm4Ccm => set_key!(tls12_crypto_info_sm4_ccm, TLS_CIPHER_SM4_CCM),
        Cipher::Aria128Gcm => set_key!(tls12_crypto_info_aria_gcm_128, TLS_CIPHER_ARIA_GCM_128),
        Cipher::Aria256Gcm => set_key!(tls12_crypto_info_aria_gcm_256, TLS_CIPHER_ARIA_GCM_256),
    };
    set.map_err(|source| Error::Cipher {
        tls: version.name(),
        cipher: cipher.name(),
        source,
    })
}
