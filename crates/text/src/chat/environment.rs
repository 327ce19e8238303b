//! Jinja as transformers sets it up for chat templates.

use std::error::Error as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::globals;

use super::{filters, python, repr};

/// What a template said with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// An environment without templates.
///
/// As `_compile_jinja_template` of transformers has it: `trim_blocks` and `lstrip_blocks`, loop controls, no escaping, no
/// loading of files, and `tojson` and `raise_exception` of its own.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    minijinja_contrib::add_to_environment(&mut environment);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("these are Jinja's own delimiters"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(format);
    filters::add(&mut environment);
    environment.add_function("joiner", joiner);
    environment.add_function("cycler", cycler);
    environment.add_function("raise_exception", raise_exception);
    environment.remove_global("debug");
    environment
}

fn joiner(separator: Option<Value>) -> Result<Value, Error> {
    Ok(globals::joiner(separator.map(plain).transpose()?))
}

fn cycler(items: Vec<Value>) -> Result<Value, Error> {
    globals::cycler(items.into_iter().map(plain).collect::<Result<_, _>>()?)
}

/// A value that holds no others. What keeps values where nobody can walk through them could keep its own like in any number of levels.
fn plain(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::String => Ok(value),
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("a {kind} cannot be joined or cycled through"))),
    }
}

fn raise_exception(state: &State<'_, '_>, message: &Value) -> Result<Value, Error> {
    let message = repr::string(state, message)?;
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(string) => out.write_str(string),
        None => out.write_str(&repr::string(state, value)?),
    };
    written.map_err(Error::from)
}

/// The message that a template gave, if it raised the error.
pub(super) fn raised(error: &Error) -> Option<String> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return Some(message.clone());
        }
        source = cause.source();
    }
    None
}

/// Where and why an error came about: a line from 1, and a text that names no template.
pub(super) fn line_and_cause(error: &Error) -> (usize, String) {
    let cause = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    (error.line().unwrap_or(1), cause)
}
