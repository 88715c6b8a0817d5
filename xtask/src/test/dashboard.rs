//! The dashboard for Grafana: every query of it is run by Prometheus's engine on what the daemon serves, and must find
//! something.

use std::{collections::HashMap, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{command, place::Place};

/// The dashboard, from the workspace.
const DASHBOARD: &str = "packaging/grafana/ktls-trace.json";
/// What a daemon serves that has something of everything to say; a test of the daemon keeps it so.
const SERVED: &str = "ktls-trace/tests/fixtures/metrics.txt";
/// For how many minutes it is served before the queries are run.
const MINUTES: u32 = 20;
/// Where they are served: two daemons show what joins their series wrongly.
const DAEMONS: [&str; 2] = ["web1", "web2"];
/// What a metric's name is followed by in its samples.
const SUFFIXES: [&str; 6] = ["", "_total", "_info", "_bucket", "_sum", "_count"];
/// What Grafana puts in place of variables.
const VARIABLES: [(&str, &str); 4] = [
    ("$__rate_interval", "5m"),
    ("$__range", "15m"),
    ("$job", "ktls-trace|other"),
    ("$instance", ".+"),
];

/// A query of the dashboard.
#[derive(Debug)]
struct Query {
    /// Title of its panel, or name of its variable.
    of: String,
    /// In `PromQL`, variables replaced.
    expression: String,
}

/// Has `promtool` run all of them. An error says which found nothing, or what is wrong with it.
pub(super) fn check(place: &Place, mut promtool: Command) -> Result<()> {
    let read = |file| {
        let path = place.workspace.join(file);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let dashboard = serde_json::from_str(&read(DASHBOARD)?).context(DASHBOARD)?;
    let queries = queries(&dashboard);
    ensure!(!queries.is_empty(), "{DASHBOARD} has no queries");
    let tests = tests(&queries, &input(&read(SERVED)?)?);
    let file = std::env::temp_dir().join(format!("ktls-trace-dashboard-{}", std::process::id()));
    fs::write(&file, tests.to_string()).with_context(|| format!("writing {}", file.display()))?;
    let tested = command::output(promtool.args(["test", "rules"]).arg(&file));
    fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    tested.context(DASHBOARD)?;
    Ok(())
}

/// The panels, also those in rows that are closed.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let outer = list(&dashboard["panels"]);
    let inner = outer.iter().flat_map(|row| list(&row["panels"]));
    outer.iter().chain(inner).collect()
}

/// What is left and right of every `or` outside of parentheses.
fn alternatives(expression: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, letter) in expression.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ' ' if depth == 0 && expression[at..].starts_with(" or ") => {
                parts.push(&expression[start..at]);
                start = at + " or ".len();
            }
            _ => {}
        }
    }
    parts.push(&expression[start..]);
    parts
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What panels, variables and annotations ask.
fn queries(dashboard: &Value) -> Vec<Query> {
    let query = |of: &Value, expression: &str| {
        let replace = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
        Query {
            of: of.as_str().unwrap_or_default().to_owned(),
            expression: VARIABLES.iter().fold(expression.to_owned(), replace),
        }
    };
    let mut queries = Vec::new();
    for panel in panels(dashboard) {
        for target in list(&panel["targets"]) {
            let expression = target["expr"].as_str().unwrap_or_default();
            // What is there for want of the first would hide that the first finds nothing.
            for part in alternatives(expression) {
                queries.push(query(&panel["title"], part));
            }
        }
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        if let Some(expression) = annotation["target"]["expr"].as_str() {
            queries.push(query(&annotation["name"], expression));
        }
    }
    for variable in list(&dashboard["templating"]["list"]) {
        let asked = variable["query"]["query"].as_str().and_then(|query| {
            let inner = query.strip_prefix("label_values(")?.strip_suffix(')')?;
            inner.rsplit_once(", ")
        });
        if let Some((series, label)) = asked {
            let expression = format!("count by ({label}) ({series})");
            queries.push(query(&variable["name"], &expression));
        }
    }
    queries
}

/// The series that a Prometheus has which scrapes daemons that serve this, and one that has gone away.
fn input(served: &str) -> Result<Vec<Value>> {
    let gone = r#"{job="ktls-trace",instance="gone"#;
    let mut input = vec![
        series(&format!(r#"up{gone}"}}"#), &format!("0x{MINUTES}")),
        series(
            &format!(r#"ktls_trace_build_info{gone}",version="0.1.0",kernel="6.12.0"}}"#),
            "1x5 stale",
        ),
        series(
            r#"ALERTS{alertname="KtlsRecordsCorked",alertstate="firing",instance="web1"}"#,
            &format!("1x{MINUTES}"),
        ),
    ];
    let mut counts_up = HashMap::new();
    for line in served.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("a type without a name")?;
            counts_up.insert(name, matches!(kind, "counter" | "histogram"));
        }
        if line.starts_with('#') {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').context("a sample without a value")?;
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let metric = SUFFIXES
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find_map(|metric| counts_up.get(metric));
        let values = if *metric.with_context(|| format!("{name} has no type"))? {
            format!("0+{value}x{MINUTES}")
        } else {
            format!("{value}x{MINUTES}")
        };
        let comma = if labels == "}" { "" } else { "," };
        for instance in DAEMONS {
            let ours = format!(r#"job="ktls-trace",instance="{instance}""#);
            let sample = format!("{name}{{{ours}{comma}{labels}");
            input.push(series(&sample, &values));
        }
    }
    for instance in DAEMONS {
        let up = format!(r#"up{{job="ktls-trace",instance="{instance}"}}"#);
        input.push(series(&up, &format!("1x{MINUTES}")));
    }
    Ok(input)
}

/// One of them, in the notation of `promtool`.
fn series(series: &str, values: &str) -> Value {
    json!({"series": series, "values": values})
}

/// A file of tests for `promtool`, each with the name of what asks: JSON is YAML.
fn tests(queries: &[Query], input: &[Value]) -> Value {
    let finds_something = |query: &Query| {
        json!({
            "name": query.of,
            "interval": "1m",
            "input_series": input,
            "promql_expr_test": [{
                "expr": format!("count({}) > bool 0", query.expression),
                "eval_time": format!("{MINUTES}m"),
                "exp_samples": [{"labels": "{}", "value": 1}],
            }],
        })
    };
    let tests: Vec<Value> = queries.iter().map(finds_something).collect();
    json!({"evaluation_interval": "1m", "tests": tests})
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, path::Path};

    use super::*;

    fn dashboard() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(DASHBOARD);
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn panels_lie_side_by_side_and_say_what_they_show() {
        let dashboard = dashboard();
        let (mut taken, mut ids) = (HashSet::new(), HashSet::new());
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(&panel["id"]), "{title}: its id is taken");
            let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            for row in place("y")..place("y") + place("h") {
                for column in place("x")..place("x") + place("w") {
                    assert!(column < 24, "{title} is wider than the page");
                    assert!(taken.insert((row, column)), "{title} covers another");
                }
            }
            if panel["type"] != "row" {
                let said = panel["description"].as_str().unwrap_or_default();
                assert!(said.len() > 40, "{title} does not say what it shows");
            }
        }
    }

    #[test]
    fn every_query_goes_to_the_source_that_was_chosen() {
        let dashboard = dashboard();
        for panel in panels(&dashboard) {
            for target in list(&panel["targets"]) {
                let source = json!({"type": "prometheus", "uid": "${datasource}"});
                assert_eq!(target["datasource"], source, "{}", panel["title"]);
            }
        }
    }

    #[test]
    fn every_query_keeps_to_the_instances_and_jobs_that_were_chosen() {
        let dashboard = dashboard();
        for panel in panels(&dashboard) {
            for target in list(&panel["targets"]) {
                let expression = target["expr"].as_str().unwrap();
                let selectors = expression.matches(r#"{job=~"$job", instance=~"$instance""#);
                let metrics = expression.matches("ktls_trace_").count();
                assert!(selectors.count() >= metrics.max(1), "{expression}");
            }
        }
    }

    #[test]
    fn no_variable_is_left_in_what_is_asked() {
        let queries = queries(&dashboard());
        assert!(queries.len() > 30, "{queries:?}");
        for Query { of, expression } in queries {
            // A `$` that is left is one of a regular expression.
            let left = expression.replace("\"$1\"", "");
            assert!(!left.contains('$'), "{of}: {expression}");
        }
    }

    #[test]
    fn an_alternative_is_outside_of_parentheses() {
        let parts = alternatives("count(a or b) or 0 * c or d");
        assert_eq!(parts, ["count(a or b)", "0 * c", "d"]);
    }

    #[test]
    fn counters_count_up_and_gauges_stand() {
        let served = "# TYPE a counter\na_total{b=\"c\"} 2\n# TYPE d gauge\nd 3\n# EOF\n";
        let input = input(served).unwrap();
        for expected in [
            series(
                r#"a_total{job="ktls-trace",instance="web1",b="c"}"#,
                "0+2x20",
            ),
            series(r#"d{job="ktls-trace",instance="web2"}"#, "3x20"),
        ] {
            assert!(input.contains(&expected), "{expected} in {input:?}");
        }
    }
}
