//! Typed access to the fields of a JSON object, with errors that name the field, what was expected and what was found.

use crate::ConfigError;
use serde_json::{Map, Value};

/// The largest size that any field may give: beyond every real model, and far from overflow in products of three.
const SIZE_MAX: u64 = 1 << 20;

/// The fields of `config.json`, or of an object in it.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// What stands before their names in errors: empty, or the object's name and a dot.
    path: String,
}

impl Fields {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        match serde_json::from_slice(json).map_err(ConfigError::Json)? {
            Value::Object(map) => Ok(Self { map, path: String::new() }),
            other => Err(ConfigError::NotAnObject { found: kind(&other) }),
        }
    }

    /// The first of `names` that is present and not null, with the name under which it was found.
    fn find(&self, names: &[&'static str]) -> Option<(&'static str, &Value)> {
        names.iter().find_map(|&name| self.map.get(name).filter(|value| !value.is_null()).map(|value| (name, value)))
    }

    /// The names of all fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// An object's fields; `None` if it has none, which transformers takes for absent.
    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Self>, ConfigError> {
        match self.find(&[name]) {
            None => Ok(None),
            Some((_, Value::Object(map))) if map.is_empty() => Ok(None),
            Some((_, Value::Object(map))) => Ok(Some(Self { map: map.clone(), path: format!("{}{name}.", self.path) })),
            Some((field, value)) => Err(self.invalid(field, "an object", value)),
        }
    }

    /// A size within `1..=SIZE_MAX`, under the first of `names` that is present.
    pub(crate) fn size(&self, names: &[&'static str]) -> Result<Option<usize>, ConfigError> {
        let Some((field, value)) = self.find(names) else { return Ok(None) };
        match value.as_u64() {
            Some(size @ 1..=SIZE_MAX) => Ok(Some(usize::try_from(size).expect("at most SIZE_MAX"))),
            _ => Err(self.invalid(field, "a whole number from 1 to 1048576", value)),
        }
    }

    pub(crate) fn required_size(&self, names: &[&'static str]) -> Result<usize, ConfigError> {
        self.size(names)?.ok_or_else(|| self.missing(names[0]))
    }

    pub(crate) fn flag(&self, name: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some((field, value)) = self.find(&[name]) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.invalid(field, "true or false", value))
    }

    pub(crate) fn positive_float(&self, name: &'static str) -> Result<Option<f64>, ConfigError> {
        let Some((field, value)) = self.find(&[name]) else { return Ok(None) };
        match value.as_f64() {
            // The models compute in f32, where a number beyond its range would be 0 or infinite.
            Some(number) if (number as f32).is_normal() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.invalid(field, "a number above 0 within f32", value)),
        }
    }

    pub(crate) fn required_positive_float(&self, name: &'static str) -> Result<f64, ConfigError> {
        self.positive_float(name)?.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn text(&self, name: &'static str) -> Result<Option<&str>, ConfigError> {
        let Some((field, value)) = self.find(&[name]) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.invalid(field, "a string", value))
    }

    /// Whether the object has `name`, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// A token id, or a list of them.
    pub(crate) fn token_ids(&self, name: &'static str) -> Result<Option<Vec<u32>>, ConfigError> {
        let Some((field, value)) = self.find(&[name]) else { return Ok(None) };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(items) => items.iter().map(id).collect::<Option<Vec<_>>>(),
            single => id(single).map(|id| vec![id]),
        };
        ids.map(Some).ok_or_else(|| self.invalid(field, "a token id or a list of token ids", value))
    }

    /// An error if `name` is present with another value than `supported`.
    pub(crate) fn only(&self, name: &'static str, supported: &Value) -> Result<(), ConfigError> {
        self.one_of(name, std::slice::from_ref(supported))
    }

    /// An error if `name` is present with a value that is not among those `supported`.
    pub(crate) fn one_of(&self, name: &'static str, supported: &[Value]) -> Result<(), ConfigError> {
        match self.find(&[name]) {
            Some((field, value)) if !supported.iter().any(|supported| is_same(value, supported)) => {
                let supported: Vec<_> = supported.iter().map(Value::to_string).collect();
                let supported = if supported.is_empty() { "null".to_owned() } else { supported.join(" or ") };
                Err(self.unsupported(field, &supported, value))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn missing(&self, name: &'static str) -> ConfigError {
        ConfigError::Missing { field: format!("{}{name}", self.path) }
    }

    pub(crate) fn invalid(&self, name: &'static str, expected: &'static str, found: &Value) -> ConfigError {
        ConfigError::Invalid { field: format!("{}{name}", self.path), expected, found: shorten(found) }
    }

    pub(crate) fn unsupported(&self, name: &'static str, supported: &str, found: &Value) -> ConfigError {
        let supported = supported.to_owned();
        ConfigError::Unsupported { field: format!("{}{name}", self.path), supported, found: shorten(found) }
    }
}

/// Whether two values are equal, also if one is written as 1 and the other as 1.0.
fn is_same(value: &Value, other: &Value) -> bool {
    value == other || value.as_f64().is_some_and(|value| Some(value) == other.as_f64())
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
