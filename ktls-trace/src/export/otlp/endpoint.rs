//! Where a collector is, as the command line names it.

use std::{fmt, str::FromStr};

use hyper::{Uri, http::uri::Scheme};

/// Where what is sent in one request, or the base of such places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// The place below this one where spans go.
    #[must_use]
    pub fn of_traces(&self) -> Self {
        self.below("v1/traces")
    }

    /// The place below this one where metrics go.
    #[must_use]
    pub fn of_metrics(&self) -> Self {
        self.below("v1/metrics")
    }

    fn below(&self, path: &str) -> Self {
        let whole = format!("{}/{path}", self.to_string().trim_end_matches('/'));
        // What was one remains one with a longer path.
        Self(whole.parse().unwrap_or_else(|_| self.0.clone()))
    }

    /// Host and port.
    pub(super) fn host(&self) -> (&str, u16) {
        let host = self.0.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        (bare, self.0.port_u16().unwrap_or(80))
    }

    /// The same as the header `Host` has it.
    pub(super) fn authority(&self) -> &str {
        self.0
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    /// The path.
    pub(super) fn path(&self) -> &str {
        self.0.path()
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text} is no URL such as http://127.0.0.1:4318");
        let uri: Uri = text.parse().map_err(|_not_one| form())?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => {
                return Err(
                    "https is not spoken: name a collector on this host, which speaks it for you"
                        .to_owned(),
                );
            }
            _ => return Err(form()),
        }
        let authority = uri.authority().ok_or_else(form)?;
        // What follows the host is its port, and nothing precedes it.
        let plain = authority.as_str() == authority.host() || authority.port_u16().is_some();
        let named = plain && !authority.as_str().contains('@');
        if !named || authority.host().is_empty() || uri.query().is_some() {
            return Err(form());
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_below_the_base_whatever_its_path() {
        for (base, traces) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            (
                "http://[::1]:9090/api/v1/otlp",
                "http://[::1]:9090/api/v1/otlp/v1/traces",
            ),
            ("http://collector", "http://collector/v1/traces"),
        ] {
            let base: Endpoint = base.parse().unwrap();
            assert_eq!(base.of_traces().to_string(), traces);
            let metrics = base.of_metrics();
            assert!(metrics.path().ends_with("/v1/metrics"), "{metrics}");
        }
        let local: Endpoint = "http://[::1]:9090/x".parse().unwrap();
        assert_eq!(
            (local.host(), local.authority()),
            (("::1", 9090), "[::1]:9090")
        );
        let named: Endpoint = "http://collector".parse().unwrap();
        assert_eq!(named.host(), ("collector", 80));
    }

    #[test]
    fn what_can_not_be_reached_is_no_endpoint() {
        for text in [
            "",
            "127.0.0.1:4318",
            "collector",
            "ftp://collector",
            "http://",
            "http://:4318",
            "http://user:secret@collector",
            "http://collector/?a=b",
            "http://collector:99999",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        let https = "https://collector".parse::<Endpoint>().unwrap_err();
        assert!(https.contains("https is not spoken"), "{https}");
    }
}
