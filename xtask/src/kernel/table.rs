//! The kernels we test on: which build each name means, and which scenarios are valid there.

use anyhow::{Context as _, Result};

/// A kernel: one build of Debian's archive, by a name of ours.
#[derive(Debug)]
pub(crate) struct Known {
    /// What `--kernel` takes.
    pub(crate) short: &'static str,
    /// `MAJOR.MINOR`, which the package's version starts with.
    pub(crate) series: &'static str,
    /// Debian's name of the architecture.
    pub(crate) architecture: &'static str,
    /// The meta package that leads to the image.
    pub(crate) meta: &'static str,
    /// Suites in the order to look. All have the same line of builds, so that the name means one thing: a later one is
    /// for machines that take nothing from the archive of the first.
    pub(crate) suites: &'static [&'static str],
    /// Besides the scenarios that name it, which are valid there and when they run.
    pub(crate) stands_in: Option<StandsIn>,
}

/// A kernel on which scenarios are valid that name another.
#[derive(Debug)]
pub(crate) struct StandsIn {
    /// Valid are the scenarios that name this kernel.
    pub(crate) like: &'static str,
    /// Of those, only the ones that say `rt = true`.
    pub(crate) rt_only: bool,
    /// Whether `--all-kernels` runs them; if not, only `--kernel` does.
    pub(crate) in_all_kernels: bool,
}

const AMD64: &str = "amd64";
const CLOUD: &str = "linux-image-cloud-amd64";

const TABLE: &[Known] = &[
    Known {
        short: "6.1",
        series: "6.1",
        architecture: AMD64,
        meta: CLOUD,
        suites: &["bookworm-security", "bookworm"],
        stands_in: None,
    },
    Known {
        short: "6.12",
        series: "6.12",
        architecture: AMD64,
        meta: CLOUD,
        suites: &["trixie-security", "trixie"],
        stands_in: None,
    },
    // Debian 13 as its last point release left it, behind the security suite.
    Known {
        short: "6.12-trixie",
        series: "6.12",
        architecture: AMD64,
        meta: CLOUD,
        suites: &["trixie"],
        stands_in: Some(StandsIn {
            like: "6.12",
            rt_only: false,
            in_all_kernels: true,
        }),
    },
    // The source of 6.12, built for Debian 12 with its older compiler, which inlines otherwise.
    Known {
        short: "6.12-bookworm",
        series: "6.12",
        architecture: AMD64,
        meta: "linux-image-6.12-cloud-amd64",
        suites: &["bookworm-security"],
        stands_in: Some(StandsIn {
            like: "6.12",
            rt_only: false,
            in_all_kernels: false,
        }),
    },
    Known {
        short: "6.12-rt",
        series: "6.12",
        architecture: AMD64,
        meta: "linux-image-rt-amd64",
        suites: &["trixie-security"],
        stands_in: Some(StandsIn {
            like: "6.12",
            rt_only: true,
            in_all_kernels: true,
        }),
    },
    Known {
        short: "7.2",
        series: "7.2",
        architecture: AMD64,
        meta: CLOUD,
        // What leaves unstable for a newer series stays in testing for some days.
        suites: &["sid", "forky"],
        stands_in: Some(StandsIn {
            like: "7.3",
            rt_only: false,
            in_all_kernels: true,
        }),
    },
    Known {
        short: "7.3",
        series: "7.3",
        architecture: AMD64,
        meta: CLOUD,
        suites: &["trixie-backports"],
        stands_in: None,
    },
];

/// Kernels that no guest runs: only what their packages say is recorded for the daemon's tests.
const NOT_BOOTED: &[Known] = &[
    // Before modules had BTF of their own.
    Known {
        short: "5.10",
        series: "5.10",
        architecture: AMD64,
        meta: CLOUD,
        suites: &["bullseye-security"],
        stands_in: None,
    },
    Known {
        short: "6.12-arm64",
        series: "6.12",
        architecture: "arm64",
        meta: "linux-image-arm64",
        suites: &["trixie"],
        stands_in: None,
    },
    // Not the cloud flavour, and a release candidate.
    Known {
        short: "7.3-rc",
        series: "7.3",
        architecture: AMD64,
        meta: "linux-image-amd64",
        suites: &["experimental"],
        stands_in: None,
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

/// The entry for `short` among the kernels that no guest runs.
pub(crate) fn find_not_booted(short: &str) -> Option<&'static Known> {
    NOT_BOOTED.iter().find(|known| known.short == short)
}

/// The names of every kernel that can be recorded.
pub(crate) fn recordable() -> impl Iterator<Item = &'static str> {
    TABLE.iter().chain(NOT_BOOTED).map(|known| known.short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_like_a_kernel_that_scenarios_name() {
        for known in TABLE {
            if let Some(StandsIn { like, .. }) = known.stands_in {
                assert!(find(like).unwrap().stands_in.is_none(), "{}", known.short);
            }
        }
    }

    #[test]
    fn no_two_names_mean_the_same_build() {
        for (position, known) in TABLE.iter().enumerate() {
            for other in &TABLE[..position] {
                let build = |known: &Known| (known.suites[0], known.meta, known.series);
                assert_ne!(build(known), build(other));
            }
        }
    }
}
