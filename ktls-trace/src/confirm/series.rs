//! Values of one kind over a run: the smallest, the median and the largest.

use schemars::JsonSchema;
use serde::Serialize;

/// Values kept for the median; smallest and largest are of all.
const KEPT: usize = 4096;

/// Values of one kind, as they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Series {
    /// The first [`KEPT`] values.
    kept: Vec<u64>,
    /// The smallest of all.
    min: Option<u64>,
    /// The largest of all.
    max: Option<u64>,
}

impl Series {
    /// Takes a value, if it is known.
    pub(super) fn note(&mut self, value: Option<impl Into<u64>>) {
        let Some(value) = value.map(Into::into) else {
            return;
        };
        if self.kept.len() < KEPT {
            self.kept.push(value);
        }
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
    }

    /// How they spread; `None` if none was known.
    pub(super) fn range(&self) -> Option<Range> {
        let mut kept = self.kept.clone();
        kept.sort_unstable();
        Some(Range {
            min: self.min?,
            median: *kept.get(kept.len() / 2)?,
            max: self.max?,
        })
    }
}

/// How values spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Range {
    /// The smallest.
    pub min: u64,
    /// The median, of the first 4096 values.
    pub median: u64,
    /// The largest.
    pub max: u64,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max {
            self.min.fmt(f)
        } else {
            write!(f, "{}..{}", self.min, self.max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_value() {
        let mut series = Series::default();
        series.note(None::<u32>);
        assert_eq!(series.range(), None);
        for value in [5_u32, 1, 9] {
            series.note(Some(value));
        }
        let range = series.range().unwrap();
        assert_eq!((range.min, range.median, range.max), (1, 5, 9));
        assert_eq!(range.to_string(), "1..9");
    }

    #[test]
    fn one_value_is_shown_once() {
        let mut series = Series::default();
        series.note(Some(16406_u32));
        series.note(Some(16406_u32));
        assert_eq!(series.range().unwrap().to_string(), "16406");
    }
}
