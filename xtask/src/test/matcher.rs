//! What a scenario may say about one JSON value, and the comparison.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use serde_json::Value;

/// JSON pointers with what is expected there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Where(BTreeMap<String, Matcher>);

impl Where {
    /// Every pointer that isn't as expected, in words; empty for a match.
    pub(crate) fn mismatches(&self, document: &Value) -> Vec<String> {
        self.0
            .iter()
            .filter_map(|(pointer, matcher)| {
                let found = document.pointer(pointer);
                if matcher.matches(found) {
                    return None;
                }
                let got = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
                Some(format!("{pointer}: expected {matcher}, got {got}"))
            })
            .collect()
    }
}

impl Where {
    /// Whether nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts of which one is expected to be at a pointer; none, if something else is.
    pub(crate) fn texts(&self, pointer: &str) -> Vec<&str> {
        let values = match self.0.get(pointer) {
            Some(Matcher::Equals(value)) => std::slice::from_ref(value),
            Some(Matcher::All(Operators {
                one_of: Some(values),
                ..
            })) => values,
            Some(Matcher::All(_)) | None => &[],
        };
        values.iter().filter_map(Value::as_str).collect()
    }

    /// Whether it is enough to match that this text is at a pointer.
    pub(crate) fn is_met_by(&self, pointer: &str, text: &str) -> bool {
        let text = Value::from(text);
        self.0
            .iter()
            .all(|(place, matcher)| place == pointer && matcher.matches(Some(&text)))
    }
}

impl fmt::Display for Where {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (pointer, matcher)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{pointer} {matcher}")?;
        }
        Ok(())
    }
}

/// What is expected of one value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) enum Matcher {
    /// The value itself; numbers by their worth, so that 1 is 1.0.
    Equals(Value),
    /// All of these.
    All(Operators),
}

/// Every operator that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operators {
    /// A number, this or more.
    min: Option<f64>,
    /// A number, this or less.
    max: Option<f64>,
    /// Whether there is anything at the pointer. `null` is something.
    present: Option<bool>,
    /// Whether it is `null`. Nothing at all is neither.
    null: Option<bool>,
    /// One of these.
    one_of: Option<Vec<Value>>,
    /// There, and not this.
    not: Option<Value>,
    /// Text with this in it, or an array with this among its elements.
    contains: Option<Value>,
}

impl TryFrom<toml::Value> for Matcher {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        if !value.is_table() {
            return Ok(Self::Equals(json(value)?));
        }
        let operators: Operators = value
            .try_into()
            .map_err(|error: toml::de::Error| error.message().to_owned())?;
        if operators == Operators::default() {
            return Err("an empty table expects nothing".to_owned());
        }
        Ok(Self::All(operators))
    }
}

impl Matcher {
    /// Whether what is at the pointer, if anything, is as expected.
    pub(crate) fn matches(&self, found: Option<&Value>) -> bool {
        match self {
            Self::Equals(expected) => found.is_some_and(|found| equal(expected, found)),
            Self::All(operators) => operators.match_all(found),
        }
    }
}

impl Operators {
    fn match_all(&self, found: Option<&Value>) -> bool {
        let Self {
            min,
            max,
            present,
            null,
            one_of,
            not,
            contains,
        } = self;
        let number = found.and_then(Value::as_f64);
        min.is_none_or(|min| number.is_some_and(|number| number >= min))
            && max.is_none_or(|max| number.is_some_and(|number| number <= max))
            && present.is_none_or(|present| present == found.is_some())
            && null.is_none_or(|null| found.is_some_and(|found| found.is_null() == null))
            && one_of.as_ref().is_none_or(|choices| {
                found.is_some_and(|found| choices.iter().any(|choice| equal(choice, found)))
            })
            && not
                .as_ref()
                .is_none_or(|unwanted| found.is_some_and(|found| !equal(unwanted, found)))
            && contains
                .as_ref()
                .is_none_or(|part| found.is_some_and(|found| holds(found, part)))
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operators {
            min,
            max,
            present,
            null,
            one_of,
            not,
            contains,
        } = match self {
            Self::Equals(expected) => return write!(formatter, "{expected}"),
            Self::All(operators) => operators,
        };
        let list = |choices: &Vec<Value>| Value::from(choices.clone()).to_string();
        let words: Vec<String> = [
            min.map(|min| format!("at least {min}")),
            max.map(|max| format!("at most {max}")),
            present.map(|present| if present { "anything" } else { "nothing" }.to_owned()),
            null.map(|null| if null { "null" } else { "not null" }.to_owned()),
            one_of
                .as_ref()
                .map(|choices| format!("one of {}", list(choices))),
            not.as_ref().map(|unwanted| format!("not {unwanted}")),
            contains.as_ref().map(|part| format!("containing {part}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        formatter.write_str(&words.join(" and "))
    }
}

fn equal(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Number(expected), Value::Number(found)) => {
            expected == found
                || expected
                    .as_f64()
                    .zip(found.as_f64())
                    .is_some_and(|(expected, found)| expected.total_cmp(&found).is_eq())
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len()
                && expected
                    .iter()
                    .zip(found)
                    .all(|(expected, found)| equal(expected, found))
        }
        (expected, found) => expected == found,
    }
}

fn holds(found: &Value, part: &Value) -> bool {
    match (found, part) {
        (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
        (Value::Array(elements), part) => elements.iter().any(|element| equal(part, element)),
        _ => false,
    }
}

fn json(value: toml::Value) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mismatches(expected: &str, document: &Value) -> Vec<String> {
        toml::from_str::<Where>(expected)
            .unwrap()
            .mismatches(document)
    }

    #[test]
    fn every_operator_accepts_and_refuses() {
        let document = json!({"n": 5, "f": 5.0, "s": "held back", "a": ["x", 2], "z": null, "t": true, "o": {"in": 1}});
        let accepted = [
            r#""/n" = 5"#,
            r#""/f" = 5"#,
            r#""/n" = 5.0"#,
            r#""/s" = "held back""#,
            r#""/t" = true"#,
            r#""/a" = ["x", 2.0]"#,
            r#""/o/in" = 1"#,
            r#""/n" = { min = 5, max = 5 }"#,
            r#""/z" = { present = true }"#,
            r#""/q" = { present = false }"#,
            r#""/z" = { null = true }"#,
            r#""/n" = { null = false }"#,
            r#""/s" = { one_of = ["x", "held back"] }"#,
            r#""/n" = { not = 4 }"#,
            r#""/s" = { contains = "ld b" }"#,
            r#""/a" = { contains = 2 }"#,
        ];
        for expected in accepted {
            assert_eq!(mismatches(expected, &document), [""; 0], "{expected}");
        }
        let refused = [
            (r#""/n" = 6"#, "/n: expected 6, got 5"),
            (r#""/q" = 1"#, "/q: expected 1, got nothing"),
            (
                r#""/s" = "held""#,
                r#"/s: expected "held", got "held back""#,
            ),
            (r#""/n" = { min = 6 }"#, "/n: expected at least 6, got 5"),
            (
                r#""/n" = { min = 1, max = 4 }"#,
                "/n: expected at least 1 and at most 4, got 5",
            ),
            (r#""/z" = { min = 0 }"#, "/z: expected at least 0, got null"),
            (
                r#""/q" = { present = true }"#,
                "/q: expected anything, got nothing",
            ),
            (
                r#""/z" = { present = false }"#,
                "/z: expected nothing, got null",
            ),
            (r#""/n" = { null = true }"#, "/n: expected null, got 5"),
            (
                r#""/q" = { null = true }"#,
                "/q: expected null, got nothing",
            ),
            (
                r#""/z" = { null = false }"#,
                "/z: expected not null, got null",
            ),
            (
                r#""/n" = { one_of = [1, 2] }"#,
                "/n: expected one of [1,2], got 5",
            ),
            (r#""/n" = { not = 5.0 }"#, "/n: expected not 5.0, got 5"),
            (r#""/q" = { not = 5 }"#, "/q: expected not 5, got nothing"),
            (
                r#""/s" = { contains = "forth" }"#,
                r#"/s: expected containing "forth", got "held back""#,
            ),
            (
                r#""/a" = { contains = "y" }"#,
                r#"/a: expected containing "y", got ["x",2]"#,
            ),
        ];
        for (expected, sentence) in refused {
            assert_eq!(mismatches(expected, &document), [sentence], "{expected}");
        }
    }

    #[test]
    fn an_unknown_operator_is_an_error() {
        let error = toml::from_str::<Where>(r#""/n" = { minimum = 1 }"#).unwrap_err();
        assert!(error.to_string().contains("minimum"), "{error}");
        assert!(toml::from_str::<Where>(r#""/n" = {}"#).is_err());
    }

    #[test]
    fn large_integers_are_compared_exactly() {
        let document = json!({"n": 4_294_967_295_u64});
        assert!(mismatches(r#""/n" = 4294967295"#, &document).is_empty());
        assert_eq!(mismatches(r#""/n" = 4294967294"#, &document).len(), 1);
    }
}
