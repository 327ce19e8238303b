//! The filter `tojson`: what Python's `json.dumps` writes, as transformers gives it to templates.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::repr::{self, BYTES_OF_STEP, DEPTH_MAX};

/// How `json.dumps` is to write.
struct Layout {
    ensure_ascii: bool,
    /// A level's indentation; `None` writes all in a line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

struct Writer<'a, 'env> {
    state: &'a State<'a, 'env>,
    layout: Layout,
    text: String,
    /// Bytes of `text` that are paid for.
    paid: usize,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
#[expect(clippy::needless_pass_by_value, reason = "so minijinja hands them over")]
pub(super) fn tojson(state: &State<'_, '_>, value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let mut options = Vec::new();
    for (at, name) in ["ensure_ascii", "indent", "separators", "sort_keys"].into_iter().enumerate() {
        let option = args.get(at).cloned().or(kwargs.get(name)?);
        options.push(option.filter(|option| !option.is_none()));
    }
    kwargs.assert_all_used()?;
    if args.len() > options.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let layout = Layout::new(&options)?;
    let mut writer = Writer { state, layout, text: String::new(), paid: 0 };
    writer.value(value, 0)?;
    Ok(Value::from(writer.text))
}

impl Layout {
    /// From the filter's arguments in their order.
    fn new(options: &[Option<Value>]) -> Result<Self, Error> {
        let [ensure_ascii, indent, separators, sort_keys] = options else {
            return Err(Error::from(ErrorKind::MissingArgument));
        };
        let is_set = |option: &Option<Value>| option.as_ref().is_some_and(Value::is_true);
        let (ensure_ascii, sort_keys) = (is_set(ensure_ascii), is_set(sort_keys));
        let indent = match indent {
            None => None,
            Some(indent) => Some(match indent.as_str() {
                Some(text) => text.to_owned(),
                None => " ".repeat(usize::try_from(i64::try_from(indent.clone())?).unwrap_or(0).min(DEPTH_MAX)),
            }),
        };
        let (item_separator, key_separator) = match separators {
            Some(pair) => {
                let pair: Vec<Value> = pair.try_iter()?.collect();
                match &pair[..] {
                    [item, key] => (item.to_string(), key.to_string()),
                    _ => return Err(invalid("tojson: expected two separators")),
                }
            }
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        Ok(Self { ensure_ascii, indent, item_separator, key_separator, sort_keys })
    }
}

impl Writer<'_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.text += "null",
            ValueKind::Bool => self.text += if value.is_true() { "true" } else { "false" },
            ValueKind::Number => self.text += &number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map if depth == DEPTH_MAX => {
                return Err(invalid("tojson: more than 200 containers within each other"));
            }
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth + 1)?,
            ValueKind::Map => self.map(value, depth + 1)?,
            kind => return Err(invalid(format!("tojson: a value of type {kind} is not JSON serializable"))),
        }
        // A list that holds another one many times is small in memory and long as text.
        let unpaid = self.text.len() - std::mem::replace(&mut self.paid, self.text.len());
        self.state.consume_fuel(1 + unpaid as u64 / BYTES_OF_STEP)
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('[');
        let mut count = 0;
        for item in value.try_iter()?.checked() {
            self.begin(count, depth);
            self.value(&item?, depth)?;
            count += 1;
        }
        self.end(count, depth);
        self.text.push(']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('{');
        let mut keys: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
        if self.layout.sort_keys {
            self.state.consume_fuel(8 * keys.len() as u64)?;
            keys.sort();
        }
        for (count, key) in keys.iter().enumerate() {
            self.begin(count, depth);
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                    self.text.push('"');
                    self.value(key, depth)?;
                    self.text.push('"');
                }
                kind => return Err(invalid(format!("tojson: a key of type {kind}"))),
            }
            self.text += &self.layout.key_separator;
            self.value(&value.get_item(key)?, depth)?;
        }
        self.end(keys.len(), depth);
        self.text.push('}');
        Ok(())
    }

    /// Before item number `count` of a container.
    fn begin(&mut self, count: usize, depth: usize) {
        if count > 0 {
            self.text += &self.layout.item_separator;
        }
        self.line(depth);
    }

    /// After the last of `count` items.
    fn end(&mut self, count: usize, depth: usize) {
        if count > 0 {
            self.line(depth - 1);
        }
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.layout.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(&**indent, depth));
        }
    }

    fn string(&mut self, string: &str) {
        self.text.push('"');
        for char in string.chars() {
            match char {
                '"' => self.text += "\\\"",
                '\\' => self.text += "\\\\",
                '\n' => self.text += "\\n",
                '\r' => self.text += "\\r",
                '\t' => self.text += "\\t",
                '\u{8}' => self.text += "\\b",
                '\u{c}' => self.text += "\\f",
                '\0'..='\u{1f}' => self.escape(char),
                '\u{7f}'.. if self.layout.ensure_ascii => self.escape(char),
                _ => self.text.push(char),
            }
        }
        self.text.push('"');
    }

    fn escape(&mut self, char: char) {
        for unit in char.encode_utf16(&mut [0; 2]) {
            write!(self.text, "\\u{unit:04x}").expect("a string takes all");
        }
    }
}

fn number(value: &Value) -> String {
    match &*repr::number(value) {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        number => number.to_owned(),
    }
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}
