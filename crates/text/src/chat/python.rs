//! Python's methods where minijinja-contrib has them otherwise or not at all.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// `str.isspace` of a character: Unicode's white space and the four separators of ASCII.
pub(super) fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&char)
}

/// What ends a line in `str.splitlines`.
fn is_line_end(char: char) -> bool {
    matches!(char, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Methods of strings, lists and objects.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.as_str() {
        Some(string) => string_method(state, string, name, args)?,
        None if value.kind() == ValueKind::Map => map_method(value, name, args)?,
        None => list_method(state, value, name, args)?,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn string_method(state: &State<'_, '_>, string: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let found = match name {
        "format" if has_wide_field(string) => return Err(invalid("a field of more than 9999 characters")),
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(string, chars, name != "rstrip", name != "lstrip"))
        }
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!string.is_empty() && string.chars().all(is_space))
        }
        "split" | "rsplit" => split(state, string, args, name == "rsplit")?,
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            lines(string, keep)
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            partition(string, separator, name == "rpartition")?
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(string.strip_prefix(prefix).unwrap_or(string))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(string.strip_suffix(suffix).unwrap_or(string))
        }
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => search(string, name, args)?,
        "ljust" | "rjust" | "center" | "zfill" => justify(state, string, name, args)?,
        "title" => {
            let () = from_args(args)?;
            Value::from(title(string))
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(string.to_lowercase().replace('ß', "ss"))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |char: char| -> String {
                if char.is_uppercase() { char.to_lowercase().collect() } else { char.to_uppercase().collect() }
            };
            Value::from(string.chars().map(swap).collect::<String>())
        }
        _ => return Ok(None),
    };
    Ok(Some(found))
}

/// Whether a format string asks for a width or precision that has more than four digits, or is an argument.
fn has_wide_field(format: &str) -> bool {
    let is_long = |digits: &str| digits.len() > 4;
    format.contains(":{") || format.split(|char: char| !char.is_ascii_digit()).any(is_long)
}

/// `strip`, `lstrip` and `rstrip`.
pub(super) fn strip<'a>(string: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let is_cut = |char: char| chars.map_or_else(|| is_space(char), |chars| chars.contains(char));
    let string = if start { string.trim_start_matches(is_cut) } else { string };
    if end { string.trim_end_matches(is_cut) } else { string }
}

/// `split(sep=None, maxsplit=-1)`, from the end if `from_end`.
fn split(state: &State<'_, '_>, string: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?).filter(|separator| !separator.is_none());
    let most = most.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let parts_max = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let parts: Vec<Value> = match separator {
        None => split_at_spaces(string, parts_max, from_end).into_iter().map(Value::from).collect(),
        Some(separator) => {
            let separator = separator.as_str().ok_or_else(|| invalid("the separator must be a string"))?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            state.consume_fuel(string.len() as u64 / 16)?;
            if from_end {
                let mut parts: Vec<Value> = string.rsplitn(parts_max, separator).map(Value::from).collect();
                parts.reverse();
                parts
            } else {
                string.splitn(parts_max, separator).map(Value::from).collect()
            }
        }
    };
    state.consume_fuel(parts.len() as u64)?;
    Ok(Value::from(parts))
}

fn split_at_spaces(string: &str, parts_max: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(string, None, !from_end, from_end);
    while !rest.is_empty() {
        let at = match from_end {
            _ if parts.len() + 1 == parts_max => None,
            false => rest.find(is_space),
            true => rest.char_indices().rfind(|(_, char)| is_space(*char)).map(|(at, char)| at + char.len_utf8()),
        };
        let Some(at) = at else {
            parts.push(strip(rest, None, from_end, false));
            break;
        };
        let (before, after) = rest.split_at(at);
        parts.push(if from_end { after } else { before });
        rest = if from_end { strip(before, None, false, true) } else { strip(after, None, true, false) };
    }
    if from_end {
        parts.reverse();
    }
    parts
}

fn lines(string: &str, keep: bool) -> Value {
    let mut lines = Vec::new();
    let mut rest = string;
    while !rest.is_empty() {
        let (line, end) = match rest.char_indices().find(|(_, char)| is_line_end(*char)) {
            Some((at, '\r')) if rest[at + 1..].starts_with('\n') => (at, at + 2),
            Some((at, char)) => (at, at + char.len_utf8()),
            None => (rest.len(), rest.len()),
        };
        lines.push(Value::from(&rest[..if keep { end } else { line }]));
        rest = &rest[end..];
    }
    Value::from(lines)
}

fn partition(string: &str, separator: &str, from_end: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let found = if from_end { string.rsplit_once(separator) } else { string.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_end => ["", "", string],
        None => [string, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// The methods that look for a part, or one of several, between two places.
fn search(string: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (part, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let length = i64::try_from(string.chars().count()).unwrap_or(i64::MAX);
    let place = |place: i64| if place < 0 { (length + place).max(0) } else { place };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)).min(length));
    let byte = |place: i64| {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        string.char_indices().nth(place).map_or(string.len(), |(at, _)| at)
    };
    let between = (start <= end).then(|| &string[byte(start)..byte(end)]);
    if matches!(name, "startswith" | "endswith") {
        let is_there = |part: &Value| {
            let part = part.as_str().ok_or_else(|| invalid("expected a string or a tuple of strings"))?;
            Ok(between
                .is_some_and(|text| if name == "startswith" { text.starts_with(part) } else { text.ends_with(part) }))
        };
        return match part.is_tuple() {
            true => {
                let each: Vec<bool> = part.try_iter()?.map(|part| is_there(&part)).collect::<Result<_, Error>>()?;
                Ok(Value::from(each.contains(&true)))
            }
            false => is_there(part).map(Value::from),
        };
    }
    let part = part.as_str().ok_or_else(|| invalid("expected a string"))?;
    if name == "count" {
        return Ok(Value::from(between.map_or(0, |text| text.matches(part).count())));
    }
    let at = between.and_then(|text| if name.starts_with('r') { text.rfind(part) } else { text.find(part) });
    match at.zip(between) {
        Some((at, text)) => Ok(Value::from(start + i64::try_from(text[..at].chars().count()).unwrap_or(i64::MAX))),
        None if name.ends_with("index") => Err(invalid("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

/// Upper case where letters begin, and lower case elsewhere.
fn title(string: &str) -> String {
    let is_cased = |char: char| char.is_lowercase() || char.is_uppercase();
    let mut title = String::with_capacity(string.len());
    let mut rest = string;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|char| !is_cased(char)).unwrap_or(rest.len());
        if word == 0 {
            title.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        title.extend(first.to_uppercase());
        // All at once, for the Greek sigma that ends a word.
        title += &rest[..word].to_lowercase()[first.to_lowercase().map(char::len_utf8).sum()..];
        rest = &rest[word..];
    }
    title
}

fn justify(state: &State<'_, '_>, string: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = if name == "zfill" { "0" } else { fill.unwrap_or(" ") };
    if fill.chars().count() != 1 {
        return Err(invalid("the fill character must be exactly one character long"));
    }
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(string.chars().count());
    state.consume_fuel(missing as u64 / 16)?;
    let fill = |count| fill.repeat(count);
    Ok(Value::from(match name {
        "ljust" => string.to_owned() + &fill(missing),
        "rjust" => fill(missing) + string,
        "zfill" => match string.strip_prefix(['+', '-']) {
            Some(digits) => string[..1].to_owned() + &fill(missing) + digits,
            None => fill(missing) + string,
        },
        _ => {
            let left = missing / 2 + (missing & width & 1);
            fill(left) + string + &fill(missing - left)
        }
    }))
}

fn map_method(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if name != "copy" {
        return Ok(None);
    }
    let () = from_args(args)?;
    Ok(Some(value.clone()))
}

fn list_method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match (value.kind(), name) {
        (ValueKind::Seq, "copy") => {
            let () = from_args(args)?;
            Ok(Some(value.clone()))
        }
        (ValueKind::Seq, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            for (at, item) in value.try_iter()?.checked().enumerate() {
                state.consume_fuel(1)?;
                if item? == *wanted {
                    return Ok(Some(Value::from(at)));
                }
            }
            Err(invalid("the value is not in the list"))
        }
        _ => Ok(None),
    }
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}
