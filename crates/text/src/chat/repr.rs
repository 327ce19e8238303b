//! Values as Python prints them: `str` and `repr`.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// Containers within containers; Python's own limit is that of its stack.
pub(super) const DEPTH_MAX: usize = 200;

/// Bytes that one step writes, of a value that is walked through.
pub(super) const BYTES_OF_STEP: u64 = 16;

/// `str` of a value.
pub(super) fn string(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(number(value)),
        ValueKind::Seq | ValueKind::Map => repr(state, value),
        // Only those that know their length are lists, and no generators.
        ValueKind::Iterable if value.len().is_some() => repr(state, value),
        _ => Ok(value.to_string()),
    }
}

fn repr(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    Writer { state, text: &mut text, paid: 0 }.value(value, 0)?;
    Ok(text)
}

/// `repr` of a number.
pub(super) fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => float(number),
        _ => value.to_string(),
    }
}

/// `repr` of a float: its shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').expect("Rust writes an exponent");
    match exponent.parse::<i32>().expect("it is a number") {
        exponent @ (..-4 | 16..) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => {
            let plain = float.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

struct Writer<'a, 'b, 'env> {
    state: &'a State<'b, 'env>,
    text: &'a mut String,
    /// Bytes of `text` that are paid for.
    paid: usize,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Number => *self.text += &number(value),
            ValueKind::Undefined => *self.text += "Undefined",
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map if depth == DEPTH_MAX => {
                return Err(Error::new(ErrorKind::InvalidOperation, "more than 200 containers within each other"));
            }
            ValueKind::Map => self.map(value, depth + 1)?,
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth + 1)?,
            _ => *self.text += &value.to_string(),
        }
        // A list that holds another one many times is small in memory and long as text.
        let unpaid = self.text.len() - std::mem::replace(&mut self.paid, self.text.len());
        self.state.consume_fuel(1 + unpaid as u64 / BYTES_OF_STEP)
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let is_tuple = value.is_tuple();
        *self.text += if is_tuple { "(" } else { "[" };
        let mut count = 0;
        for item in value.try_iter()?.checked() {
            if count > 0 {
                *self.text += ", ";
            }
            self.value(&item?, depth)?;
            count += 1;
        }
        *self.text += match (is_tuple, count) {
            (true, 1) => ",)",
            (true, _) => ")",
            (false, _) => "]",
        };
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('{');
        for (count, key) in value.try_iter()?.checked().enumerate() {
            let key = key?;
            if count > 0 {
                *self.text += ", ";
            }
            self.value(&key, depth)?;
            *self.text += ": ";
            self.value(&value.get_item(&key)?, depth)?;
        }
        self.text.push('}');
        Ok(())
    }

    fn string(&mut self, string: &str) {
        let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
        self.text.push(quote);
        for char in string.chars() {
            match char {
                '\n' => *self.text += "\\n",
                '\r' => *self.text += "\\r",
                '\t' => *self.text += "\\t",
                '\\' => *self.text += "\\\\",
                _ if char == quote => self.text.extend(['\\', char]),
                _ if is_printable(char) => self.text.push(char),
                _ => {
                    let code = u32::from(char);
                    let written = match code {
                        ..0x100 => write!(self.text, "\\x{code:02x}"),
                        0x100..0x1_0000 => write!(self.text, "\\u{code:04x}"),
                        _ => write!(self.text, "\\U{code:08x}"),
                    };
                    written.expect("a string takes all");
                }
            }
        }
        self.text.push(quote);
    }
}

/// `str.isprintable` of a character, but for those that no Unicode version has assigned.
fn is_printable(char: char) -> bool {
    /// Format characters and private use: the categories Cf and Co.
    const HIDDEN: [(u32, u32); 23] = [
        (0xAD, 0xAD),
        (0x600, 0x605),
        (0x61C, 0x61C),
        (0x6DD, 0x6DD),
        (0x70F, 0x70F),
        (0x890, 0x891),
        (0x8E2, 0x8E2),
        (0x180E, 0x180E),
        (0x200B, 0x200F),
        (0x202A, 0x202E),
        (0x2060, 0x2064),
        (0x2066, 0x206F),
        (0xE000, 0xF8FF),
        (0xFEFF, 0xFEFF),
        (0xFFF9, 0xFFFB),
        (0x1_10BD, 0x1_10BD),
        (0x1_10CD, 0x1_10CD),
        (0x1_3430, 0x1_343F),
        (0x1_BCA0, 0x1_BCA3),
        (0x1_D173, 0x1_D17A),
        (0xE_0001, 0xE_0001),
        (0xE_0020, 0xE_007F),
        (0xF_0000, 0x10_FFFF),
    ];
    let code = u32::from(char);
    let is_hidden = || HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&code));
    char == ' ' || !char.is_control() && !char.is_whitespace() && !is_hidden()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_have_pythons_digits() {
        for (value, expected) in [
            (0.1, "0.1"),
            (3.0, "3.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (123_456_789.125, "123456789.125"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float(value), expected);
        }
    }
}
