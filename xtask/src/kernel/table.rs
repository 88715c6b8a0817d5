//! The kernels we test on, and the suites to look for each in.

use anyhow::{Context as _, Result};

/// A kernel series and where Debian keeps it.
#[derive(Debug)]
pub(crate) struct Known {
    /// `MAJOR.MINOR`, what `--kernel` takes.
    pub(crate) short: &'static str,
    /// Suites in the order to try; the first that has the series wins.
    pub(crate) suites: &'static [&'static str],
}

const TABLE: &[Known] = &[
    Known {
        short: "6.1",
        suites: &["bookworm-security", "bookworm"],
    },
    Known {
        short: "6.12",
        suites: &["trixie-security", "trixie", "bookworm-security"],
    },
    Known {
        short: "7.2",
        suites: &["sid"],
    },
    Known {
        short: "7.3",
        suites: &["trixie-backports"],
    },
];

/// The kernel a verb takes when none is named.
pub(crate) const DEFAULT_SHORT: &str = "6.12";

/// Every kernel we know.
pub(crate) fn known() -> &'static [Known] {
    TABLE
}

/// The entry for `short`; the error lists the ones there are.
pub(crate) fn find(short: &str) -> Result<&'static Known> {
    TABLE
        .iter()
        .find(|known| known.short == short)
        .with_context(|| {
            let all: Vec<&str> = TABLE.iter().map(|known| known.short).collect();
            format!("unknown kernel `{short}`: known are {}", all.join(", "))
        })
}
