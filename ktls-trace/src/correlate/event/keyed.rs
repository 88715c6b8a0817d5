//! The schema of a map whose keys are one of several named things.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// An object with keys of one type and values of another. What schemars makes of such a map lists the keys
/// but not what they mean; this refers to them.
pub(crate) fn keyed<K: JsonSchema, V: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": generator.subschema_for::<K>(),
        "additionalProperties": generator.subschema_for::<V>(),
    })
}
