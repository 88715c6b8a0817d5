//! The host settings that decide whether the gates can shut, read in the caller's network namespace.

use std::fs;

/// The two gates' settings. `None`: not readable here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Settings {
    /// `net.ipv4.tcp_notsent_lowat` in bytes; 4294967295 is the stock value (never shut).
    pub tcp_notsent_lowat: Option<u32>,
    /// `net.ipv4.tcp_wmem`: smallest, initial and largest send buffer in bytes.
    pub tcp_wmem: Option<[u64; 3]>,
    /// `net.core.wmem_max`: largest `SO_SNDBUF` in bytes.
    pub wmem_max: Option<u64>,
}

impl Settings {
    /// Reads them from `/proc/sys`.
    pub fn read() -> Self {
        Self {
            tcp_notsent_lowat: value("net/ipv4/tcp_notsent_lowat").and_then(|text| number(&text)),
            tcp_wmem: value("net/ipv4/tcp_wmem").and_then(|text| triple(&text)),
            wmem_max: value("net/core/wmem_max").and_then(|text| text.trim().parse().ok()),
        }
    }

    /// Sentences on what is risky in them, for `doctor`.
    pub fn risks(&self) -> Vec<String> {
        let mut risks = Vec::new();
        if let Some(lowat) = self.tcp_notsent_lowat
            && lowat < 65536
        {
            risks.push(format!(
                "net.ipv4.tcp_notsent_lowat is {lowat}: a kTLS sendfile() stalls on every path \
                 whose MSS is larger than the records held (loopback, jumbo frames); above the \
                 MSS it is harmless; before 6.5 one below 65536 hangs it on every path"
            ));
        }
        if let Some([_, _, largest]) = self.tcp_wmem
            && largest < 4 * 65536
        {
            risks.push(format!(
                "net.ipv4.tcp_wmem ends at {largest}: a send buffer smaller than a few segments \
                 shuts the other gate on paths with a large MSS"
            ));
        }
        risks
    }
}

/// Text of a setting.
fn value(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()
}

/// A number of 32 bits; the kernel prints this setting signed on some versions.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    text.parse()
        .ok()
        .or_else(|| text.parse::<i32>().ok().map(i32::cast_unsigned))
}

/// Three numbers.
fn triple(text: &str) -> Option<[u64; 3]> {
    let numbers: Vec<u64> = text
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_settings_are_no_risk() {
        let stock = Settings {
            tcp_notsent_lowat: number("4294967295\n"),
            tcp_wmem: triple("4096\t16384\t4194304\n"),
            wmem_max: Some(212_992),
        };
        assert_eq!(stock.tcp_notsent_lowat, Some(u32::MAX));
        assert_eq!(stock.risks(), Vec::<String>::new());
    }

    #[test]
    fn the_web_server_tuning_and_a_small_buffer_are_risks() {
        let tuned = Settings {
            tcp_notsent_lowat: number("16384"),
            tcp_wmem: triple("4096 16384 65536"),
            wmem_max: None,
        };
        let risks = tuned.risks();
        assert_eq!(risks.len(), 2);
        assert!(risks[0].contains("16384"));
        assert!(risks[1].contains("65536"));
    }

    #[test]
    fn a_signed_minus_one_is_the_stock_value() {
        assert_eq!(number("-1"), Some(u32::MAX));
        assert_eq!(number("many"), None);
    }
}
