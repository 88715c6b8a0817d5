//! The metrics that `/metrics` serves as OTLP has them: the same series with the same values, read from the text itself.
//!
//! A metric goes by the name of its samples (`…_total`, `…_info`), which Prometheus neither has to complete nor may change:
//! what is pushed and what is scraped are the same series.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
        metric::Data, number_data_point::Value,
    },
};

use super::value::Attributes;

/// What the kernel has counted since before anybody looked.
const OF_THE_KERNEL: &str = "ktls_trace_tls_stat";

/// From when to when was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) since: SystemTime,
    pub(super) until: SystemTime,
}

/// All metrics of a text.
///
/// # Errors
///
/// If it is not as we write it; the line.
pub(super) fn of(text: &str, span: Span) -> Result<Vec<Metric>, String> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in text.lines() {
        let wrong = || format!("no line of OpenMetrics: {line}");
        if let Some(described) = line.strip_prefix("# ") {
            let mut words = described.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("HELP"), Some(name), Some(help)) => families.push(Family::new(name, help)),
                (Some("TYPE"), Some(_), Some(kind)) => {
                    families.last_mut().ok_or_else(wrong)?.kind = kind;
                }
                (Some("UNIT"), Some(_), Some(unit)) => {
                    families.last_mut().ok_or_else(wrong)?.unit = unit;
                }
                (Some("EOF"), None, None) => {}
                _ => return Err(wrong()),
            }
        } else {
            let sample = Sample::read(line).ok_or_else(wrong)?;
            families.last_mut().ok_or_else(wrong)?.samples.push(sample);
        }
    }
    let metrics = families.iter().filter(|family| !family.samples.is_empty());
    metrics.map(|family| family.metric(span)).collect()
}

/// Samples that are told of together.
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    unit: &'a str,
    samples: Vec<Sample<'a>>,
}

impl<'a> Family<'a> {
    fn new(name: &'a str, help: &'a str) -> Self {
        Self {
            name,
            help,
            kind: "",
            unit: "",
            samples: Vec::new(),
        }
    }

    fn metric(&self, span: Span) -> Result<Metric, String> {
        let wrong = || format!("no metric of OpenMetrics: {}", self.name);
        let (suffix, data) = match self.kind {
            "counter" => {
                let since = if self.name == OF_THE_KERNEL {
                    0
                } else {
                    unix_ns(span.since)
                };
                let sum = Sum {
                    data_points: self.numbers(since, span).ok_or_else(wrong)?,
                    aggregation_temporality: AggregationTemporality::Cumulative.into(),
                    is_monotonic: true,
                };
                ("_total", Data::Sum(sum))
            }
            "gauge" | "info" => {
                let data_points = self.numbers(0, span).ok_or_else(wrong)?;
                let suffix = if self.kind == "info" { "_info" } else { "" };
                (suffix, Data::Gauge(Gauge { data_points }))
            }
            "histogram" => {
                let histogram = Histogram {
                    data_points: vec![self.distribution(span).ok_or_else(wrong)?],
                    aggregation_temporality: AggregationTemporality::Cumulative.into(),
                };
                ("", Data::Histogram(histogram))
            }
            _ => return Err(wrong()),
        };
        Ok(Metric {
            name: format!("{}{suffix}", self.name),
            description: self.help.trim_end_matches('.').to_owned(),
            unit: match self.unit {
                "seconds" => "s".to_owned(),
                "bytes" => "By".to_owned(),
                other => other.to_owned(),
            },
            data: Some(data),
            ..Metric::default()
        })
    }

    /// Numbers that have been counted from a moment on, or are so now.
    fn numbers(&self, since: u64, span: Span) -> Option<Vec<NumberDataPoint>> {
        let point = |sample: &Sample<'_>| {
            Some(NumberDataPoint {
                attributes: sample.attributes(),
                start_time_unix_nano: since,
                time_unix_nano: unix_ns(span.until),
                value: Some(match sample.value.parse() {
                    Ok(number) => Value::AsInt(number),
                    Err(_) => Value::AsDouble(sample.value.parse().ok()?),
                }),
                ..NumberDataPoint::default()
            })
        };
        self.samples.iter().map(point).collect()
    }

    /// How what was observed is distributed. Of these there is one without labels of its own.
    fn distribution(&self, span: Span) -> Option<HistogramDataPoint> {
        let mut point = HistogramDataPoint {
            start_time_unix_nano: unix_ns(span.since),
            time_unix_nano: unix_ns(span.until),
            ..HistogramDataPoint::default()
        };
        let mut below = 0;
        for sample in &self.samples {
            match sample.name.strip_prefix(self.name)? {
                "_sum" => point.sum = Some(sample.value.parse().ok()?),
                "_count" => point.count = sample.value.parse().ok()?,
                "_bucket" => {
                    let [(_, bound)] = sample.labels.as_slice() else {
                        return None;
                    };
                    if bound != "+Inf" {
                        point.explicit_bounds.push(bound.parse().ok()?);
                    }
                    // Here each counts what those before it have not.
                    let count: u64 = sample.value.parse().ok()?;
                    point.bucket_counts.push(count.checked_sub(below)?);
                    below = count;
                }
                _ => return None,
            }
        }
        Some(point)
    }
}

/// One number.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: &'a str,
}

impl<'a> Sample<'a> {
    /// Reads `name{label="value",…} number`.
    fn read(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, mut rest) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}')?),
            None => (series, ""),
        };
        let mut labels = Vec::new();
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"")?;
            let (text, after) = quoted(after)?;
            labels.push((label, text));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        Some(Self {
            name,
            labels,
            value,
        })
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = Attributes::default();
        for (label, text) in &self.labels {
            attributes.add(*label, text.as_str());
        }
        attributes.list()
    }
}

/// What comes before the closing quote, and what after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut letters = text.char_indices();
    let mut value = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// Nanoseconds since 1970.
fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
