//! A JSON Schema as tables in Markdown, for people: the reference in `docs/events.md` is made of it.
//!
//! It knows what schemars makes of the types of this project, and no more of JSON Schema than that. Fields are in
//! the order of the JSON; an object or enumeration is told under the place where it is met first.

use std::fmt::Write as _;

use serde_json::Value;

/// Where definitions are in a schema.
const DEFINITIONS: &str = "#/$defs/";
/// The annotation that gives the unit of a number.
const UNIT: &str = "x-unit";

/// The tables of a schema: events if it is one of several, then the objects in them, then the enumerations.
pub fn of(schema: &Value) -> String {
    let mut tables = Tables {
        definitions: &schema["$defs"],
        met: Vec::new(),
    };
    let bodies = array(&schema["anyOf"]);
    tables.meet_fields(schema, "");
    for body in bodies {
        if let Some(name) = definition_name(body) {
            tables.meet_fields(&tables.definitions[name], "");
        }
    }
    for met in &mut tables.met {
        // A field of its own says more than the keys of one.
        met.places.sort_by_key(|place| place.contains(' '));
    }
    let mut text = String::new();
    tables.write_root(&mut text, schema, bodies);
    for enumerations in [false, true] {
        for met in &tables.met {
            let its_turn = is_enumeration(&tables.definitions[met.definition]) == enumerations;
            if its_turn && !met.is_event() {
                tables.write_met(&mut text, met);
            }
        }
    }
    text
}

/// What is told of a schema.
struct Tables<'a> {
    /// Its definitions by name.
    definitions: &'a Value,
    /// Those that were met, in order.
    met: Vec<Met<'a>>,
}

/// A definition that some field refers to.
struct Met<'a> {
    /// Its name in the schema, which is not told.
    definition: &'a str,
    /// Where, as paths from the top of the JSON.
    places: Vec<String>,
}

impl Met<'_> {
    /// Whether it is the names of events, which come first.
    fn is_event(&self) -> bool {
        self.places == ["event"]
    }

    /// The heading it is told under, and what links to it name.
    fn heading(&self) -> String {
        self.places
            .first()
            .map(|place| quoted(place))
            .unwrap_or_default()
    }

    /// The other places.
    fn further(&self) -> &[String] {
        self.places.get(1..).unwrap_or_default()
    }
}

/// How a field refers to a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It is one.
    Itself,
    /// It is a list of them.
    Element,
    /// It is an object whose keys are of it.
    Key,
    /// It is an object whose values are of it.
    Member,
}

impl Role {
    /// The path of what is met in this role at the path of a field.
    fn path(self, field: &str) -> String {
        match self {
            Self::Itself => field.to_owned(),
            Self::Element => format!("{field}[]"),
            Self::Key => format!("keys of {field}"),
            Self::Member => format!("{field}.*"),
        }
    }
}

impl<'a> Tables<'a> {
    /// Meets what the fields of an object refer to, and what the fields of that do.
    fn meet_fields(&mut self, object: &'a Value, path: &str) {
        for (name, field) in properties(object) {
            let at = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            for (role, definition) in references(field) {
                let place = role.path(&at);
                if let Some(met) = (self.met.iter_mut()).find(|met| met.definition == definition) {
                    met.places.push(place);
                    continue;
                }
                self.met.push(Met {
                    definition,
                    places: vec![place.clone()],
                });
                self.meet_fields(&self.definitions[definition], &place);
            }
        }
    }

    /// Writes what is common to all events and then each body, or the one object that it is.
    fn write_root(&self, text: &mut String, schema: &Value, bodies: &[Value]) {
        if bodies.is_empty() {
            self.write_object(text, "the object", schema, &[]);
            return;
        }
        heading(
            text,
            "every event",
            "Begins with these, and goes on with those of its name.",
        );
        self.write_table(text, schema);
        for place in self.met.iter().filter(|met| met.is_event()) {
            self.write_met(text, place);
        }
        for body in bodies {
            let names = array(&body["properties"]["event"]["enum"]);
            let names: Vec<_> = names.iter().filter_map(Value::as_str).map(quoted).collect();
            let fields = &self.definitions[definition_name(body).unwrap_or_default()];
            self.write_object(text, &names.join(", "), fields, &[]);
        }
    }

    /// Writes a definition.
    fn write_met(&self, text: &mut String, met: &Met<'_>) {
        let definition = &self.definitions[met.definition];
        if is_enumeration(definition) {
            write_enumeration(text, &met.heading(), definition, met.further());
        } else {
            self.write_object(text, &met.heading(), definition, met.further());
        }
    }

    /// Writes an object with its heading.
    fn write_object(&self, text: &mut String, title: &str, object: &Value, further: &[String]) {
        heading(text, title, &introduction(object, further));
        self.write_table(text, object);
    }

    /// Writes the fields of an object.
    fn write_table(&self, text: &mut String, object: &Value) {
        text.push_str("| field | type | unit | meaning |\n|---|---|---|---|\n");
        let required = array(&object["required"]);
        for (name, field) in properties(object) {
            let always = required.iter().any(|required| required == name.as_str());
            let kind = self.kind(field) + if always { "" } else { ", or left out" };
            write_row(text, name, &kind, field, description(field));
        }
        // One of several: each has the one field that names it.
        for either in array(&object["oneOf"]) {
            for (name, field) in properties(either) {
                let kind = self.kind(field) + ", or left out";
                write_row(text, name, &kind, field, description(either));
            }
        }
    }

    /// The type of a field, in words.
    fn kind(&self, field: &Value) -> String {
        let nullable = array(&field["anyOf"]).iter().chain(array(&field["type"]));
        let null = nullable
            .into_iter()
            .any(|it| it == "null" || it["type"] == "null");
        let named = |role| {
            let mut found = references(field).filter(|(its, _)| *its == role);
            found.find_map(|(_, definition)| self.link(definition))
        };
        let plain = |schema: &Value| plain_kind(schema).unwrap_or("anything").to_owned();
        let kind = if let Some(link) = named(Role::Itself) {
            link
        } else if let Some(link) = named(Role::Element) {
            format!("list of {link}")
        } else if field["items"].is_object() {
            format!("list of {}", plain(&field["items"]))
        } else if field["additionalProperties"].is_object() {
            let values = &field["additionalProperties"];
            format!(
                "object: {} to {}",
                named(Role::Key).unwrap_or_else(|| "string".to_owned()),
                named(Role::Member).unwrap_or_else(|| plain(values))
            )
        } else {
            plain(field)
        };
        if null { kind + " or null" } else { kind }
    }

    /// A link to where a definition is told.
    fn link(&self, definition: &str) -> Option<String> {
        let met = self.met.iter().find(|met| met.definition == definition)?;
        let heading = met.heading();
        Some(format!("[{heading}](#{})", anchor(&heading)))
    }
}

/// Writes a field of an object.
fn write_row(text: &mut String, name: &str, kind: &str, field: &Value, meaning: &str) {
    let unit = field[UNIT].as_str().unwrap_or_default();
    // Writing to a string does not fail.
    let _infallible = writeln!(
        text,
        "| {} | {kind} | {unit} | {} |",
        quoted(name),
        cell(meaning)
    );
}

/// Writes an enumeration: its values and what they mean.
fn write_enumeration(text: &mut String, title: &str, enumeration: &Value, further: &[String]) {
    heading(text, title, &introduction(enumeration, further));
    text.push_str("| value | meaning |\n|---|---|\n");
    for (value, meaning) in values(enumeration) {
        let _infallible = writeln!(text, "| {} | {} |", quoted(value), cell(meaning));
    }
}

/// Writes a heading and what comes before the table.
fn heading(text: &mut String, title: &str, introduction: &str) {
    let gap = if introduction.is_empty() { "" } else { "\n\n" };
    let _infallible = write!(text, "\n### {title}\n\n{introduction}{gap}");
}

/// What a definition is, and where else it is met.
fn introduction(definition: &Value, further: &[String]) -> String {
    let mut words = one_line(description(definition));
    if !further.is_empty() {
        let places: Vec<_> = further.iter().map(|place| quoted(place)).collect();
        let _infallible = write!(words, " Also {}.", places.join(", "));
    }
    words
}

/// The name of the definition that a schema refers to.
fn definition_name(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix(DEFINITIONS)
}

/// The definitions that a field refers to.
fn references(field: &Value) -> impl Iterator<Item = (Role, &str)> {
    let one = [
        (Role::Itself, field),
        (Role::Element, &field["items"]),
        (Role::Key, &field["propertyNames"]),
        (Role::Member, &field["additionalProperties"]),
    ];
    let either = array(&field["anyOf"]).iter().map(|it| (Role::Itself, it));
    one.into_iter()
        .chain(either)
        .filter_map(|(role, schema)| Some((role, definition_name(schema)?)))
}

/// The type of a field that refers to no definition.
fn plain_kind(schema: &Value) -> Option<&str> {
    let types = array(&schema["type"]);
    schema["type"].as_str().or_else(|| {
        types
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null")
    })
}

/// Whether a definition lists values.
fn is_enumeration(definition: &Value) -> bool {
    values(definition).next().is_some()
}

/// The values of an enumeration with their meaning.
fn values(enumeration: &Value) -> impl Iterator<Item = (&str, &str)> {
    array(&enumeration["oneOf"])
        .iter()
        .filter_map(|value| Some((value["const"].as_str()?, description(value))))
}

/// The fields of an object in order.
fn properties(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object["properties"].as_object().into_iter().flatten()
}

/// What a schema says of itself.
fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// The elements of an array; none of anything else.
fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A path as code, but for the words before it.
fn quoted(path: &str) -> String {
    match path.rsplit_once(' ') {
        Some((words, path)) => format!("{words} `{path}`"),
        None => format!("`{path}`"),
    }
}

/// Text in one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    one_line(text).replace('|', "\\|")
}

/// The anchor that renderers of Markdown give a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests;
