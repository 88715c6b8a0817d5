//! Names of the kernel's numbers for TLS (`include/uapi/linux/tls.h`).

/// `TLS_1_2_VERSION` → `1.2`.
pub fn version_name(version: u32) -> String {
    match version {
        0x0303 => "1.2".to_owned(),
        0x0304 => "1.3".to_owned(),
        other => format!("{other:#06x}"),
    }
}

/// `TLS_CIPHER_AES_GCM_128` → `aes-gcm-128`.
pub fn cipher_name(cipher: u32) -> String {
    match cipher {
        51 => "aes-gcm-128".to_owned(),
        52 => "aes-gcm-256".to_owned(),
        53 => "aes-ccm-128".to_owned(),
        54 => "chacha20-poly1305".to_owned(),
        55 => "sm4-gcm".to_owned(),
        56 => "sm4-ccm".to_owned(),
        57 => "aria-gcm-128".to_owned(),
        58 => "aria-gcm-256".to_owned(),
        other => other.to_string(),
    }
}

/// `TLS_SW` → `sw`, as `ss` prints it.
pub fn conf_name(conf: u32) -> String {
    match conf {
        0 => "none".to_owned(),
        1 => "sw".to_owned(),
        2 => "hw".to_owned(),
        3 => "hw-record".to_owned(),
        other => other.to_string(),
    }
}
