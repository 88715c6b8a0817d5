use std::{collections::BTreeSet, time::Duration};

use opentelemetry_proto::tonic::common::v1::any_value;

use super::*;

/// What a daemon serves that has something of everything to say.
const FIXTURE: &str = include_str!("../../../../tests/fixtures/metrics.txt");

fn span() -> Span {
    Span {
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        until: SystemTime::UNIX_EPOCH + Duration::from_secs(160),
    }
}

/// A series and its value, as Prometheus has it, which leaves out labels that are empty.
fn line(name: &str, labels: &[(String, String)], value: f64) -> String {
    let labels: BTreeSet<String> = labels
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(label, value)| format!("{label}={value:?}"))
        .collect();
    format!("{name}{labels:?} {value}")
}

fn labels(attributes: &[KeyValue]) -> Vec<(String, String)> {
    let label = |attribute: &KeyValue| {
        let value = attribute.value.clone().unwrap().value.unwrap();
        let any_value::Value::StringValue(value) = value else {
            panic!("{value:?}");
        };
        (attribute.key.clone(), value)
    };
    attributes.iter().map(label).collect()
}

/// The series that Prometheus makes of metrics.
fn series(metrics: &[Metric]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for Metric { name, data, .. } in metrics {
        let points = match data.as_ref().unwrap() {
            Data::Sum(sum) => &sum.data_points,
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Histogram(histogram) => {
                let [point] = histogram.data_points.as_slice() else {
                    panic!("{histogram:?}");
                };
                let mut count = 0;
                let bounds = point.explicit_bounds.iter().copied();
                for (bound, more) in bounds.chain([f64::INFINITY]).zip(&point.bucket_counts) {
                    count += more;
                    let le = ("le".to_owned(), bound.to_string());
                    lines.insert(line(&format!("{name}_bucket"), &[le], whole(count)));
                }
                lines.insert(line(&format!("{name}_count"), &[], whole(point.count)));
                lines.insert(line(&format!("{name}_sum"), &[], point.sum.unwrap()));
                continue;
            }
            other => panic!("{other:?}"),
        };
        for point in points {
            let value = match point.value.unwrap() {
                Value::AsInt(number) => whole(number.unsigned_abs()),
                Value::AsDouble(number) => number,
            };
            lines.insert(line(name, &labels(&point.attributes), value));
        }
    }
    lines
}

fn whole(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}

#[test]
fn what_is_pushed_are_the_series_that_are_served() {
    let metrics = of(FIXTURE, span()).unwrap();
    let served: BTreeSet<String> = FIXTURE
        .lines()
        .filter(|served| !served.starts_with('#'))
        .map(|served| {
            let sample = Sample::read(served).unwrap();
            let labels: Vec<_> = sample
                .labels
                .iter()
                .map(|(label, value)| match *label {
                    "le" if value != "+Inf" => {
                        let bound: f64 = value.parse().unwrap();
                        ("le".to_owned(), bound.to_string())
                    }
                    "le" => ("le".to_owned(), f64::INFINITY.to_string()),
                    label => (label.to_owned(), value.clone()),
                })
                .collect();
            line(sample.name, &labels, sample.value.parse().unwrap())
        })
        .collect();
    assert!(served.len() > 100, "{served:#?}");
    assert_eq!(series(&metrics), served);
}

#[test]
fn counters_say_since_when_and_what_the_kernel_counts_does_not() {
    let metrics = of(FIXTURE, span()).unwrap();
    let since = |name: &str| {
        let metric = metrics.iter().find(|metric| metric.name == name).unwrap();
        match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic, "{name}");
                assert_eq!(
                    sum.aggregation_temporality(),
                    AggregationTemporality::Cumulative
                );
                sum.data_points[0].start_time_unix_nano
            }
            Data::Gauge(gauge) => {
                assert_eq!(gauge.data_points[0].time_unix_nano, 160_000_000_000);
                gauge.data_points[0].start_time_unix_nano
            }
            Data::Histogram(histogram) => histogram.data_points[0].start_time_unix_nano,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(since("ktls_trace_stalls_opened_total"), 100_000_000_000);
    assert_eq!(since("ktls_trace_held_seconds"), 100_000_000_000);
    assert_eq!(since("ktls_trace_tls_stat_total"), 0);
    assert_eq!(since("ktls_trace_stalled_sockets"), 0);
    let units: Vec<_> = ["ktls_trace_held_seconds", "ktls_trace_held_bytes"]
        .map(|name| {
            &metrics
                .iter()
                .find(|metric| metric.name == name)
                .unwrap()
                .unit
        })
        .into();
    assert_eq!(units, ["s", "By"]);
}

/// What `normalizeName` of Prometheus's `otlptranslator` does: it takes names apart at underscores, appends the unit unless it is
/// among the parts, moves `total` of a counter to the end, and appends `ratio` to a gauge with unit `1`.
#[test]
fn names_are_such_that_prometheus_leaves_them_as_they_are() {
    for Metric {
        name, unit, data, ..
    } in of(FIXTURE, span()).unwrap()
    {
        let parts: Vec<_> = name.split('_').collect();
        assert!(parts.iter().all(|part| !part.is_empty()), "{name}");
        let is_counter = matches!(data, Some(Data::Sum(_)));
        let totals = parts.iter().filter(|part| **part == "total").count();
        assert_eq!(totals, usize::from(is_counter), "{name}");
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        match unit.as_str() {
            "" => {}
            "s" => assert!(parts.contains(&"seconds"), "{name}"),
            "By" => assert!(parts.contains(&"bytes"), "{name}"),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn labels_may_have_anything_in_them() {
    let text = "# HELP a A.\n# TYPE a counter\na_total{b=\"x\\\"},y \\\\ \\n\",c=\"\"} 2\n# EOF\n";
    let metrics = of(text, span()).unwrap();
    let Some(Data::Sum(sum)) = &metrics[0].data else {
        panic!("{metrics:?}");
    };
    let expected = [("b", "x\"},y \\ \n"), ("c", "")];
    let expected = expected.map(|(label, value)| (label.to_owned(), value.to_owned()));
    assert_eq!(labels(&sum.data_points[0].attributes), expected);
}

#[test]
fn what_we_do_not_write_is_named() {
    for text in [
        "a 1",
        "# HELP a A.\n# TYPE a counter\na{b} 1",
        "# HELP a A.\n# TYPE a summary\na 1",
        "# HELP a A.\n# TYPE a gauge\na x",
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1",
    ] {
        assert!(of(text, span()).is_err(), "{text}");
    }
}
