//! Reads apt's source files in both formats: one line a source (`*.list`) and deb822 stanzas (`*.sources`).

/// One configured source of binary packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// Addresses of the archive.
    pub(crate) uris: Vec<String>,
    /// Suites or codenames taken from it.
    pub(crate) suites: Vec<String>,
    /// Components such as `main`.
    pub(crate) components: Vec<String>,
    /// Path of a keyring, or an armoured key itself.
    pub(crate) signed_by: Option<String>,
    /// `trusted=yes`: the owner of the machine takes this source unsigned.
    pub(crate) trusted: bool,
}

/// Sources of a `*.list` file.
pub(crate) fn parse_one_line_format(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line
        .strip_prefix("deb")?
        .strip_prefix([' ', '\t'])?
        .trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let mut source = Source {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        ..Source::default()
    };
    for option in options.split_whitespace() {
        match option.split_once('=') {
            Some(("signed-by", value)) => source.signed_by = Some(value.to_owned()),
            Some(("trusted", value)) => source.trusted = is_yes(value),
            _ => {}
        }
    }
    Some(source)
}

/// Sources of a `*.sources` file.
pub(crate) fn parse_deb822_format(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(from_fields(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                // A lone dot stands for an empty line, as inside an armoured key.
                value.push_str(line.trim().strip_prefix('.').unwrap_or(line.trim()));
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn from_fields(fields: &[(String, String)]) -> Option<Source> {
    let field = |name: &str| {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    };
    let words = |name: &str| -> Vec<String> {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let enabled = field("enabled").is_none_or(is_yes);
    if !enabled || !words("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    Some(Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").map(|value| value.trim().to_owned()),
        trusted: field("trusted").is_some_and(is_yes),
    })
}

fn is_yes(value: &str) -> bool {
    ["yes", "true", "1", "on", "enable", "with"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_format_with_options_and_comments() {
        let sources = parse_one_line_format(
            "# deb http://off.example/debian sid main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib # here\n\
             deb-src http://m.example/debian bookworm main\n\
             deb http://s.example/security bookworm-security main\n",
        );
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].uris, ["http://m.example/debian"]);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[0].signed_by.as_deref(), Some("/k.gpg"));
        assert_eq!(sources[1].suites, ["bookworm-security"]);
        assert_eq!(sources[1].signed_by, None);
    }

    #[test]
    fn deb822_format_with_several_suites_and_a_disabled_stanza() {
        let sources = parse_deb822_format(
            "Types: deb deb-src\n# a remark\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main\nSigned-By: /k.gpg\n\nEnabled: no\nTypes: deb\nURIs: http://x\nSuites: y\nComponents: main\n",
        );
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[0].signed_by.as_deref(), Some("/k.gpg"));
    }

    #[test]
    fn deb822_key_written_out_keeps_its_lines() {
        let sources = parse_deb822_format(
            "Types: deb\nURIs: u\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n",
        );
        assert_eq!(
            sources[0].signed_by.as_deref(),
            Some("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc")
        );
    }
}
