//! Filters and tests of Jinja that minijinja has otherwise or not at all.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::{json, python, repr, stored};

/// Puts them into `environment`.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("attr", attr);
    environment.add_filter("d", default);
    environment.add_filter("default", default);
    environment.add_filter("float", float);
    environment.add_filter("int", int);
    environment.add_filter(stored::IN_NAMESPACE, stored::in_namespace);
    environment.add_filter(stored::IN_VARIABLE, stored::in_variable);
    environment.add_filter("string", |state: &State<'_, '_>, value: &Value| repr::string(state, value));
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("trim", trim);
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    });
}

/// `attr(name)`: an object's keys are no attributes.
fn attr(value: &Value, name: &str) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map { Ok(Value::UNDEFINED) } else { value.get_attr(name) }
}

/// `default(default_value='', boolean=False)`.
#[expect(clippy::needless_pass_by_value, reason = "so minijinja hands them over")]
fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = other.or(kwargs.get("default_value")?).unwrap_or_else(|| Value::from(""));
    let boolean = boolean.or(kwargs.get("boolean")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value.clone() })
}

fn trim(state: &State<'_, '_>, value: &Value, chars: Option<&str>) -> Result<Value, Error> {
    match value.as_str() {
        Some(string) => Ok(Value::from(python::strip(string, chars, true, true))),
        None => Ok(Value::from(python::strip(&repr::string(state, value)?, chars, true, true))),
    }
}

/// `int(default=0, base=10)`: the default where there is no number.
#[expect(clippy::needless_pass_by_value, reason = "so minijinja hands them over")]
fn int(value: &Value, default: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(kwargs.get("base")?).filter(|base| (2..=36).contains(base)).unwrap_or(10);
    kwargs.assert_all_used()?;
    if value.is_integer() {
        return Ok(value.clone());
    }
    let integer = match value.as_str() {
        Some(string) => {
            let digits = python::strip(string, None, true, true).replace('_', "");
            let (sign, digits) = match digits.strip_prefix('-') {
                Some(digits) => ("-", digits),
                None => ("", digits.strip_prefix('+').unwrap_or(&digits)),
            };
            let prefix = match base {
                2 => ["0b", "0B"],
                8 => ["0o", "0O"],
                16 => ["0x", "0X"],
                _ => ["", ""],
            };
            let digits = prefix.into_iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
            i128::from_str_radix(&format!("{sign}{digits}"), base).ok()
        }
        None => None,
    };
    let truncated = || number(value).filter(|number| number.abs() < 1e38).map(|number| number as i128);
    Ok(integer.or_else(truncated).map_or(default, Value::from))
}

/// `float(default=0.0)`.
#[expect(clippy::needless_pass_by_value, reason = "so minijinja hands them over")]
fn float(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0.0));
    kwargs.assert_all_used()?;
    Ok(number(value).map_or(default, Value::from))
}

fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(string) => python::strip(string, None, true, true).replace('_', "").parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    }
}
