//! JSON as the values of templates.

use std::sync::Arc;

use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr};
use minijinja::{Error, State, Value};
use serde_json::{Map, Value as Json};

/// Methods of Python's dictionaries that Jinja's sandbox lets a template see.
const METHODS: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];

/// A JSON object.
///
/// As in Jinja, an attribute is a method before it is a key: `schema.items` is always defined, `schema['items']` is the key.
#[derive(Debug)]
struct Dict(DynObject);

/// A method that is not called: true, and without attributes.
#[derive(Debug)]
struct Method {
    object: Arc<Dict>,
    name: &'static str,
}

/// The value, and the bytes that it takes.
pub(super) fn from_json(json: &Json) -> (Value, usize) {
    match json {
        Json::Null => (Value::from(()), 8),
        Json::Bool(bool) => (Value::from(*bool), 8),
        Json::Number(number) => (from_number(number), 8),
        Json::String(string) => (Value::from(&**string), string.len() + 8),
        Json::Array(list) => {
            let mut bytes = 8;
            let mut item = |json| {
                let (value, of_item) = from_json(json);
                bytes += of_item;
                value
            };
            let list: Vec<Value> = list.iter().map(&mut item).collect();
            (Value::from(list), bytes)
        }
        Json::Object(object) => from_object(object),
    }
}

/// The same for an object.
pub(super) fn from_object(object: &Map<String, Json>) -> (Value, usize) {
    let mut bytes = 8;
    let entries = object.iter().map(|(key, json)| {
        let (value, of_value) = from_json(json);
        bytes += key.len() + of_value;
        (&**key, value)
    });
    let map = Value::from_pairs(entries);
    let map = map.as_object().expect("pairs make a map").clone();
    (Value::from_object(Dict(map)), bytes)
}

/// Whether the value is an object of the conversation.
pub(super) fn is_json(value: &Value) -> bool {
    value.downcast_object_ref::<Dict>().is_some()
}

fn from_number(number: &serde_json::Number) -> Value {
    if let Some(integer) = number.as_i64() {
        Value::from(integer)
    } else if let Some(integer) = number.as_u64() {
        Value::from(integer)
    } else {
        Value::from(number.as_f64().unwrap_or(f64::NAN))
    }
}

fn bound(object: &Arc<Dict>, name: &str) -> Option<Value> {
    let name = METHODS.into_iter().find(|method| *method == name)?;
    Some(Value::from_object(Method { object: object.clone(), name }))
}

impl Object for Dict {
    /// `object[key]`, and `key in object`.
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get_value(key)
    }

    /// `object.name`.
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        bound(self, key).or_else(|| self.0.get_value_by_str(key))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.0.enumerate()
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.0.enumerator_len()
    }
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        Value::from_dyn_object(self.object.clone()).call_method(state, self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.name)
    }
}
