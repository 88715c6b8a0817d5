//! Cuts the kernel's text tables down to the rows a recording needs.

use std::collections::{BTreeMap, BTreeSet};

/// The rows of `/proc/kallsyms` about `functions` and their twins (`__pfx_…`, `….cold`), and the function after each, which
/// tells where it ends.
pub(crate) fn prune_kallsyms(table: &str, functions: &BTreeSet<String>) -> String {
    let mut first_row_at: BTreeMap<u64, usize> = BTreeMap::new();
    let mut keep = BTreeSet::new();
    let mut starts = Vec::new();
    for (number, row) in table.lines().enumerate() {
        let mut words = row.split_ascii_whitespace();
        let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(address) = u64::from_str_radix(address, 16) else {
            continue;
        };
        first_row_at.entry(address).or_insert(number);
        if functions.contains(untwinned(name)) {
            keep.insert(number);
            starts.push(address);
        }
    }
    for start in starts {
        if let Some((_, number)) = first_row_at.range(start.saturating_add(1)..).next() {
            keep.insert(*number);
        }
    }
    rows(table, |number, _| keep.contains(&number))
}

/// The function that a symbol is or belongs to.
fn untwinned(name: &str) -> &str {
    let name = name.strip_prefix("__pfx_").unwrap_or(name);
    name.split('.').next().unwrap_or(name)
}

/// The rows of `available_filter_functions` about `functions`.
pub(crate) fn prune_traceable(table: &str, functions: &BTreeSet<String>) -> String {
    rows(table, |_, row| {
        row.split_ascii_whitespace()
            .next()
            .is_some_and(|name| functions.contains(name))
    })
}

/// The lines of a kernel's configuration about `settings`, set or not.
pub(crate) fn prune_config(config: &str, settings: &BTreeSet<String>) -> String {
    rows(config, |_, row| {
        let row = row.strip_prefix("# ").unwrap_or(row);
        row.strip_prefix("CONFIG_")
            .and_then(|rest| rest.split(['=', ' ']).next())
            .is_some_and(|name| settings.contains(name))
    })
}

fn rows(table: &str, keep: impl Fn(usize, &str) -> bool) -> String {
    table
        .lines()
        .enumerate()
        .filter(|(number, row)| keep(*number, row))
        .flat_map(|(_, row)| [row, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_function_stays_with_its_twins_and_where_it_ends() {
        let table = "\
            ffffffff81000000 T first\n\
            ffffffff81000100 t __pfx_tcp_push\n\
            ffffffff81000110 T tcp_push\n\
            ffffffff81000180 d tcp_push_data\n\
            ffffffff81000200 t after\n\
            ffffffff81000200 t after_too\n\
            ffffffff81000300 T tcp_push_one\n\
            ffffffff81000400 t tcp_push.cold\n\
            ffffffff81000420 t last\n\
            ffffffffc0000000 t tls_push_sg\t[tls]\n";
        let kept = "\
            ffffffff81000100 t __pfx_tcp_push\n\
            ffffffff81000110 T tcp_push\n\
            ffffffff81000200 t after\n\
            ffffffff81000400 t tcp_push.cold\n\
            ffffffff81000420 t last\n\
            ffffffffc0000000 t tls_push_sg\t[tls]\n";
        assert_eq!(
            prune_kallsyms(table, &names(&["tcp_push", "tls_push_sg"])),
            kept
        );
    }

    #[test]
    fn traceable_functions_are_matched_whole() {
        let table = "tcp_push\ntcp_push_one\ntls_push_sg [tls]\n";
        assert_eq!(
            prune_traceable(table, &names(&["tcp_push", "tls_push_sg"])),
            "tcp_push\ntls_push_sg [tls]\n"
        );
    }

    #[test]
    fn a_setting_that_is_off_stays_too() {
        let config =
            "#\n# CONFIG_TLS_TOE is not set\nCONFIG_TLS=m\nCONFIG_TLS_DEVICE=y\nCONFIG_HZ=250\n";
        assert_eq!(
            prune_config(config, &names(&["TLS", "TLS_TOE", "HZ"])),
            "# CONFIG_TLS_TOE is not set\nCONFIG_TLS=m\nCONFIG_HZ=250\n"
        );
    }
}
