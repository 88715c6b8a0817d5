//! The schema describes what is written, and the documents are made of it.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use flate2::read::GzDecoder;
use serde_json::Value;

/// Where the made part of a document begins and ends.
const BEGIN: &str = "<!-- begin: made from the schema -->\n";
const END: &str = "<!-- end: made from the schema -->\n";

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in a workspace")
}

/// What `ktls-trace schema` prints.
fn schema(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
        .arg("schema")
        .args(arguments)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn documents_have_the_tables_of_the_schema() {
    let mut differ = Vec::new();
    for (file, of) in [
        ("docs/events.md", "events"),
        ("docs/snapshot.md", "snapshot"),
        ("docs/confirm.md", "confirm"),
    ] {
        let path = root().join(file);
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect(file);
        let (_, after) = rest.split_once(END).expect(file);
        let tables = schema(&[of, "--markdown"]);
        let made = format!("{before}{BEGIN}{tables}\n{END}{after}");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &made).unwrap();
        } else if made != text {
            differ.push(file);
        }
    }
    assert!(
        differ.is_empty(),
        "not as the schema is; `BLESS=1 cargo test -p ktls-trace --test schema` writes them: {differ:?}"
    );
}

#[test]
fn links_within_the_documents_lead_somewhere() {
    for file in ["docs/events.md", "docs/snapshot.md", "docs/confirm.md"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        // As GitHub makes them.
        let anchors: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .map(|heading| {
                heading
                    .trim_start_matches('#')
                    .trim()
                    .to_lowercase()
                    .replace(' ', "-")
                    .replace(
                        |it: char| !it.is_alphanumeric() && it != '-' && it != '_',
                        "",
                    )
            })
            .collect();
        let distinct: BTreeSet<_> = anchors.iter().collect();
        assert_eq!(distinct.len(), anchors.len(), "{file}: {anchors:?}");
        let links: Vec<_> = (text.split("](#").skip(1))
            .filter_map(|rest| rest.split_once(')'))
            .map(|(link, _)| link.to_owned())
            .collect();
        assert!(!links.is_empty(), "{file}");
        for link in links {
            assert!(anchors.contains(&link), "{file}: #{link}");
        }
    }
}

#[test]
fn every_field_of_every_schema_is_described() {
    for of in ["events", "snapshot", "confirm"] {
        let tables = schema(&[of, "--markdown"]);
        let bare: Vec<_> = (tables.lines())
            .filter(|line| line.ends_with("|  |") || line.contains("| anything"))
            .collect();
        assert!(bare.is_empty(), "{of}: {bare:?}");
    }
}

/// The events that were kept of every recording.
fn recorded() -> Vec<(PathBuf, String)> {
    let kernels = fs::read_dir(root().join("xtask/recordings")).expect("recordings");
    kernels
        .flat_map(|kernel| fs::read_dir(kernel.expect("a folder").path()).expect("a folder"))
        .map(|file| file.expect("a file").path())
        .filter(|path| path.to_string_lossy().ends_with(".events.gz"))
        .map(|path| {
            let mut text = String::new();
            GzDecoder::new(fs::File::open(&path).expect("it opens"))
                .read_to_string(&mut text)
                .expect("it is whole");
            (path, text)
        })
        .collect()
}

#[test]
fn events_of_every_recording_are_as_the_schema_says() {
    let schema: Value = serde_json::from_str(&schema(&["events"])).unwrap();
    let rules = Rules { root: &schema };
    let mut names = BTreeSet::new();
    for (path, text) in recorded() {
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            names.extend(event["event"].as_str().map(str::to_owned));
            if let Err(why) = rules.check_event(&event) {
                panic!("{}: {why}: {line}", path.display());
            }
        }
    }
    for name in ["started", "stall-opened", "stall-closed", "stopped"] {
        assert!(names.contains(name), "no {name} in {names:?}");
    }
}

#[test]
fn an_event_that_is_not_as_the_schema_says_is_noticed() {
    let schema: Value = serde_json::from_str(&schema(&["events"])).unwrap();
    let rules = Rules { root: &schema };
    let event = |place: &str| {
        serde_json::from_str::<Value>(&format!(
            "{{\"schema\":\"ktls-trace/1\",\"event\":\"lost\",\"time\":\"\",{place},\"count\":1,\"total\":1}}"
        ))
        .unwrap()
    };
    assert_eq!(
        rules.check_event(&event("\"place\":\"ring-buffer\"")),
        Ok(())
    );
    for wrong in [
        "\"place\":null",
        "\"places\":\"ring-buffer\"",
        "\"place\":\"ring-buffer\",\"more\":1",
    ] {
        assert!(rules.check_event(&event(wrong)).is_err(), "{wrong}");
    }
    let mut other = event("\"place\":\"ring-buffer\"");
    other["event"] = "stopped".into();
    assert!(rules.check_event(&other).is_err(), "the body of another");
}

/// As much of JSON Schema as the events take. Fields that are not in the schema are an error: it is to know all.
struct Rules<'a> {
    /// The whole schema.
    root: &'a Value,
}

impl Rules<'_> {
    /// An event: what is common, and the body of its name.
    fn check_event(&self, event: &Value) -> Result<(), String> {
        let names = |body: &&Value| {
            let names = body["properties"]["event"]["enum"].as_array();
            names.is_some_and(|names| names.contains(&event["event"]))
        };
        let bodies = self.root["anyOf"].as_array().ok_or("no bodies")?;
        let body = bodies.iter().find(names).ok_or("no body of this name")?;
        self.check_object(event, &[self.root, self.resolve(body)], "event")
    }

    /// Follows a reference.
    fn resolve<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let name = schema["$ref"]
            .as_str()
            .map(|path| path.replace("#/$defs/", ""));
        name.map_or(schema, |name| &self.root["$defs"][name])
    }

    /// An object with the fields of several schemas together.
    fn check_object(&self, value: &Value, schemas: &[&Value], at: &str) -> Result<(), String> {
        let object = value.as_object().ok_or(format!("{at} is no object"))?;
        for required in schemas
            .iter()
            .filter_map(|it| it["required"].as_array())
            .flatten()
        {
            let name = required.as_str().unwrap_or_default();
            object.get(name).ok_or(format!("{at} has no {name}"))?;
        }
        for (name, member) in object {
            let below = format!("{at}.{name}");
            let keys = schemas.iter().find_map(|it| it.get("propertyNames"));
            if let Some(keys) = keys {
                self.check(&Value::from(name.as_str()), keys, &below)?;
            }
            let field = schemas.iter().find_map(|it| it["properties"].get(name));
            let field =
                field.or_else(|| schemas.iter().find_map(|it| it.get("additionalProperties")));
            self.check(
                member,
                field.ok_or(format!("{below} is not in the schema"))?,
                &below,
            )?;
        }
        Ok(())
    }

    /// Any value.
    fn check(&self, value: &Value, schema: &Value, at: &str) -> Result<(), String> {
        let schema = self.resolve(schema);
        for several in ["oneOf", "anyOf"] {
            if let Some(either) = schema[several].as_array() {
                let fits = |it: &Value| self.check(value, it, at).is_ok();
                return either
                    .iter()
                    .any(fits)
                    .then_some(())
                    .ok_or(format!("{at} is {value}"));
            }
        }
        if schema.get("const").is_some_and(|wanted| wanted != value) {
            return Err(format!("{at} is {value}"));
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let wanted = &schema["type"];
        if wanted != kind
            && !wanted
                .as_array()
                .is_some_and(|any| any.iter().any(|it| it == kind))
        {
            return Err(format!("{at} is {value}, not {wanted}"));
        }
        match value {
            Value::Array(elements) => (elements.iter())
                .try_for_each(|it| self.check(it, &schema["items"], &format!("{at}[]"))),
            Value::Object(_) => self.check_object(value, &[schema], at),
            _ => Ok(()),
        }
    }
}
