//! What a template may keep: values of a bounded depth and size.
//!
//! minijinja's fuel pays for each step of a template, but not for what a value that is kept comes to when it is printed or
//! compared: `{% set ns.l = [ns.l, ns.l] %}`, forty times, is small and prints a terabyte; a namespace within itself prints
//! without end; and a list of a hundred thousand levels overflows the stack. All of these must be stored on their way, so what
//! is stored is walked through and paid for.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::repr::DEPTH_MAX;
use super::value;

/// The filter for what becomes a variable.
pub(super) const IN_VARIABLE: &str = "stored_in_variable";
/// The filter for what becomes an attribute of a namespace.
pub(super) const IN_NAMESPACE: &str = "stored_in_namespace";

/// Values, or pieces of 64 bytes, that are walked through in a step.
const PIECES_OF_STEP: u64 = 8;

/// The value. An iterator becomes a list, as one of an iterator of an iterator would be slow.
pub(super) fn in_variable(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    keep(state, value, false)
}

/// The same, without a namespace in it, which could be the one that it is put into.
pub(super) fn in_namespace(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    keep(state, value, true)
}

fn keep(state: &State<'_, '_>, value: &Value, in_namespace: bool) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable => Value::from(value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?),
        _ => value.clone(),
    };
    Walk { state, in_namespace, pieces: 0 }.value(&value, 0)?;
    Ok(value)
}

struct Walk<'a, 'b, 'env> {
    state: &'a State<'b, 'env>,
    in_namespace: bool,
    /// Pieces that are yet to be paid for.
    pieces: u64,
}

impl Walk<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.pieces += 1 + value.as_str().map_or(0, |string| string.len() as u64 / 64);
        if self.pieces >= PIECES_OF_STEP {
            self.state.consume_fuel(self.pieces / PIECES_OF_STEP)?;
            self.pieces %= PIECES_OF_STEP;
        }
        // The conversation itself has the depth that its JSON has.
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) || value::is_json(value) {
            return Ok(());
        }
        let invalid = |detail| Error::new(ErrorKind::InvalidOperation, detail);
        if depth == DEPTH_MAX {
            return Err(invalid("a value of more than 200 containers within each other cannot be stored"));
        }
        if self.in_namespace && value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
            return Err(invalid("a namespace cannot be stored in a namespace"));
        }
        for item in value.try_iter()?.checked() {
            let item = item?;
            if value.kind() == ValueKind::Map {
                self.value(&value.get_item(&item)?, depth + 1)?;
            }
            self.value(&item, depth + 1)?;
        }
        Ok(())
    }
}
