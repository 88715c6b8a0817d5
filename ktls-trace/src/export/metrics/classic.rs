//! The text format that came before `OpenMetrics`, for clients that do not ask for the newer one. The samples are the
//! same; what describes them goes by the samples' names, and units and `info` are not known.

use std::collections::HashMap;

/// Its content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rewrites `OpenMetrics` text.
pub fn from_open_metrics(text: &str) -> String {
    let kinds: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let line = |line: &str| {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            return None;
        }
        let described = line
            .strip_prefix("# HELP ")
            .map(|rest| ("HELP", rest))
            .or_else(|| line.strip_prefix("# TYPE ").map(|rest| ("TYPE", rest)));
        let Some((what, (name, rest))) =
            described.and_then(|(what, rest)| Some((what, rest.split_once(' ')?)))
        else {
            return Some(line.to_owned());
        };
        let suffix = match kinds.get(name) {
            Some(&"counter") => "_total",
            Some(&"info") => "_info",
            _ => "",
        };
        let rest = match (what, rest) {
            ("TYPE", "info") => "gauge",
            (_, rest) => rest,
        };
        Some(format!("# {what} {name}{suffix} {rest}"))
    };
    text.lines()
        .filter_map(line)
        .map(|line| line + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_describes_a_sample_goes_by_its_name() {
        let text = "# HELP a_b Build.\n# TYPE a_b info\na_b_info{v=\"1\"} 1\n# HELP a_c Count # TYPE of things.\n\
                    # TYPE a_c counter\na_c_total 2\n# HELP a_s Held.\n# TYPE a_s histogram\n# UNIT a_s seconds\n\
                    a_s_sum 0.0\n# EOF\n";
        let expected = "# HELP a_b_info Build.\n# TYPE a_b_info gauge\na_b_info{v=\"1\"} 1\n\
                        # HELP a_c_total Count # TYPE of things.\n# TYPE a_c_total counter\na_c_total 2\n\
                        # HELP a_s Held.\n# TYPE a_s histogram\na_s_sum 0.0\n";
        assert_eq!(from_open_metrics(text), expected);
    }
}
