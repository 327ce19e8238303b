//! What clap knows of commands and their flags.

use super::{CONFIG, Value};
use anyhow::{Result, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Id};
use std::ffi::{OsStr, OsString};

/// Not to be set but on the command line.
const NOT_SET: [&str; 3] = [CONFIG, "help", "version"];

/// The command that shows what holds for another one.
const SHOWS: (&str, &str) = ("config", "serve");

/// The command that was asked for: its names, `serve` or `bench`, `serve`; what clap knows of it, and what is on the command line.
/// `None` of one that is not for people, or of none.
pub(super) fn asked<'a, 'b>(
    program: &'a Command,
    matches: &'b ArgMatches,
) -> Option<(Vec<&'a str>, &'a Command, &'b ArgMatches)> {
    let (mut command, mut matches, mut path) = (program, matches, Vec::new());
    while let Some((name, below)) = matches.subcommand() {
        (command, matches) = (command.find_subcommand(name)?, below);
        if command.is_hide_set() {
            return None;
        }
        path.push(if name == SHOWS.0 { SHOWS.1 } else { command.get_name() });
    }
    (!path.is_empty()).then_some((path, command, matches))
}

/// The long name of a flag that can be set.
pub(super) fn flag(arg: &Arg) -> Option<String> {
    arg.get_long().filter(|name| !NOT_SET.contains(name)).map(str::to_owned)
}

/// The flags of a command that can be set.
pub(super) fn flags(command: &Command) -> impl Iterator<Item = String> {
    command.get_arguments().filter_map(flag)
}

/// The commands for people within a command or the program.
pub(super) fn commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// The flags of all commands that stand by themselves: what is set for all of them is not meant for those of a group, such as `bench`, whose
/// flags have meanings of their own.
pub(super) fn common_flags(program: &Command) -> Vec<String> {
    let single = commands(program).filter(|command| !command.has_subcommands());
    let mut all: Vec<String> = single.flat_map(flags).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether it is on or off, and has no value.
pub(super) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether it may be given several times.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether the two exclude each other.
pub(super) fn conflict(command: &Command, one: &Arg, other: &Arg) -> bool {
    let excludes = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|arg| arg.get_id() == b.get_id());
    excludes(one, other) || excludes(other, one)
}

/// Whether the command line has it.
pub(super) fn source_is_command_line(matches: &ArgMatches, id: &Id) -> bool {
    // An id that clap does not list would be a panic.
    let is_known = matches.try_contains_id(id.as_str()).is_ok();
    is_known && matches.value_source(id.as_str()) == Some(ValueSource::CommandLine)
}

/// On or off.
///
/// # Errors
///
/// It is neither.
pub(super) fn truth(text: &OsStr) -> Result<bool> {
    match text.to_str().map(str::to_ascii_lowercase).as_deref() {
        Some("true" | "1" | "yes" | "on") => Ok(true),
        Some("false" | "0" | "no" | "off") => Ok(false),
        _ => bail!("expected true or false, found {text:?}"),
    }
}

/// What a word means that was written as text.
///
/// # Errors
///
/// A switch is on or off.
pub(super) fn of_text(arg: &Arg, text: OsString) -> Result<Value> {
    if is_switch(arg) {
        return Ok(if truth(&text)? { Value::On } else { Value::Off });
    }
    match text.to_str() {
        Some(list) if is_list(arg) => Ok(Value::Of(list.split(',').map(|part| part.trim().into()).collect())),
        _ => Ok(Value::Of(vec![text])),
    }
}

/// The one of `names` that was most likely meant.
pub(super) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |other: &str| strsim::normalized_damerau_levenshtein(&name.replace('_', "-").to_lowercase(), other);
    let rated = names.into_iter().map(|other| (alike(other), other));
    rated.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

/// Values as they are shown.
pub(super) fn shown(values: &[impl AsRef<OsStr>], is_secret: bool) -> String {
    if is_secret {
        return "(secret)".to_owned();
    }
    values.iter().map(|value| value.as_ref().to_string_lossy()).collect::<Vec<_>>().join(",")
}
