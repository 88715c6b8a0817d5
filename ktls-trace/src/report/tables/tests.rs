//! Tables of made-up schemas.

use serde_json::json;

use super::*;

/// The lines that begin with this, for a schema of these fields.
fn lines(fields: &Value, definitions: &Value, begin: &str) -> Vec<String> {
    let schema = json!({"properties": fields, "required": ["always"], "$defs": definitions});
    let text = of(&schema);
    let lines = text.lines().filter(|line| line.starts_with(begin));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_field_has_its_type_unit_and_meaning_in_one_line() {
    let fields = json!({
        "always": {"type": "integer", "x-unit": "ms", "description": "a\nb | c"},
        "seldom": {"type": ["string", "null"], "description": "d"},
    });
    assert_eq!(
        lines(&fields, &json!({}), "| `"),
        [
            "| `always` | integer | ms | a b \\| c |",
            "| `seldom` | string or null, or left out |  | d |",
        ]
    );
}

#[test]
fn what_a_field_refers_to_is_told_once_under_its_path() {
    let colour = json!({"oneOf": [{"const": "red", "description": "Like blood."}]});
    let fields = json!({
        "counts": {"propertyNames": {"$ref": "#/$defs/C"}, "additionalProperties": {"type": "integer"}},
        "always": {"anyOf": [{"$ref": "#/$defs/C"}, {"type": "null"}]},
        "rows": {"items": {"$ref": "#/$defs/R"}},
    });
    let definitions = json!({"C": colour, "R": {"properties": {"c": {"$ref": "#/$defs/C"}}}});
    assert_eq!(
        lines(&fields, &definitions, "### "),
        ["### the object", "### `rows[]`", "### `always`"]
    );
    assert_eq!(
        lines(&fields, &definitions, "| `"),
        [
            "| `counts` | object: [`always`](#always) to integer, or left out |  |  |",
            "| `always` | [`always`](#always) or null |  |  |",
            "| `rows` | list of [`rows[]`](#rows), or left out |  |  |",
            "| `c` | [`always`](#always), or left out |  |  |",
            "| `red` | Like blood. |",
        ]
    );
    let further = " Also `rows[].c`, keys of `counts`.";
    assert_eq!(lines(&fields, &definitions, " Also"), [further]);
}

#[test]
fn anchors_are_those_of_a_renderer() {
    assert_eq!(anchor("`evidence.sock_diag`"), "evidencesock_diag");
    assert_eq!(anchor("keys of `released`"), "keys-of-released");
    assert_eq!(anchor("`chain[].link`"), "chainlink");
}
