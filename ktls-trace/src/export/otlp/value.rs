//! Attributes: a name, and a value of one of the kinds that there are.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};

/// A value.
pub(super) struct Value(any_value::Value);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(any_value::Value::StringValue(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self(any_value::Value::StringValue(text))
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self(any_value::Value::BoolValue(is))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self(any_value::Value::DoubleValue(number))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self(any_value::Value::IntValue(number.into()))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self(any_value::Value::IntValue(
            i64::try_from(number).unwrap_or(i64::MAX),
        ))
    }
}

impl From<&[String]> for Value {
    fn from(texts: &[String]) -> Self {
        let values = texts.iter().map(|text| any(text.as_str().into())).collect();
        Self(any_value::Value::ArrayValue(ArrayValue { values }))
    }
}

fn any(Value(value): Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

/// Attributes of something. Whatever is not known has none.
#[derive(Default)]
pub(super) struct Attributes(Vec<KeyValue>);

impl Attributes {
    /// One more.
    pub(super) fn add(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.0.push(KeyValue {
            key: key.into(),
            value: Some(any(value.into())),
            ..KeyValue::default()
        });
    }

    /// One more, if it is known.
    pub(super) fn known(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    /// All of them.
    pub(super) fn list(self) -> Vec<KeyValue> {
        self.0
    }
}
