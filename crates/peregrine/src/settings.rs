//! Where the values of flags come from beside the command line: variables, a file, and what other launchers set.
//!
//! Which flags there are is asked of clap's own description of the program: a flag that is added there has its variable and its key
//! in the file. What is found becomes arguments behind those of the command line, so that clap checks them all alike.
//! docs/flags.md has the order, and why it is so.

mod file;
mod flags;
mod show;
mod tgi;
mod variables;

use crate::profiles;
use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};
use file::File;
use flags::{conflict, flag, shown, source_is_command_line};
pub use show::{ConfigArgs, show};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use tracing::{info, warn};
use variables::Variables;

/// The flag that names the file, and its variable without the prefix.
pub const CONFIG: &str = "config";

/// The flag that names a profile.
const PROFILE: &str = "profile";

/// From where a value comes that is not on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// A variable: of this program, or of another launcher.
    Variable(String),
    /// A line of the file, from 1.
    File(PathBuf, usize),
    /// What a mode, which is a flag itself, brings with it.
    Mode(&'static str),
    /// A profile.
    Profile(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Mode(flag) => write!(f, "--{flag}"),
            Self::Profile(name) => write!(f, "profile {name}"),
        }
    }
}

/// What a source says of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// It is not given, whatever sources behind this one say.
    Off,
    /// A switch is on.
    On,
    /// Its values: one, but for flags that may be given several times.
    Of(Vec<OsString>),
}

/// A flag with its value, from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    /// Its long name, without hyphens in front.
    flag: String,
    value: Value,
    origin: Origin,
}

impl Setting {
    fn new(flag: &str, value: Value, origin: Origin) -> Self {
        Self { flag: flag.to_owned(), value, origin }
    }

    /// As the command line would have it.
    fn arguments(&self) -> Vec<OsString> {
        let flag = format!("--{}", self.flag);
        match &self.value {
            Value::Off => Vec::new(),
            Value::On => vec![flag.into()],
            Value::Of(values) => {
                values.iter().map(|value| [(flag.clone() + "=").into(), value.clone()].into_iter().collect()).collect()
            }
        }
    }
}

/// What was found beside the command line.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    taken: Vec<Setting>,
    /// Flags whose values are not to be seen.
    secret: Vec<String>,
    /// What is set and changes nothing, and why.
    unused: Vec<String>,
}

/// The arguments of the command line, `words`, with those that follow from the `environment` and the file.
///
/// # Errors
///
/// In words: a file that cannot be read or has what it should not have, a variable that is no value of its flag, or that asks for what does not
/// exist here.
pub fn resolve(
    program: &Command,
    mut words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
) -> Result<(Vec<OsString>, Settings)> {
    // What is wrong with the command line is said when all is parsed. Help needs no file.
    let Ok(matches) = program.clone().ignore_errors(true).try_get_matches_from(&words) else {
        return Ok((words, Settings::default()));
    };
    let Some((path, command, matches)) = flags::asked(program, &matches) else {
        return Ok((words, Settings::default()));
    };
    let variables = Variables(environment);
    let mut found = Found::new(command, matches);
    found.add(variables.settings(&path, command)?);
    if let Some(file) = matches.get_one::<PathBuf>(CONFIG).cloned().or_else(|| variables.config()) {
        found.add(File::open(&file)?.settings(program, &path, command)?);
    }
    if path == ["serve"] {
        found.unused.extend(variables.misspelt(program));
        let is_container = found.holds(tgi::MODE);
        let (settings, unused) = tgi::settings(command, &|name| variables.get(name), is_container)?;
        found.unused.extend(unused);
        found.add(settings);
        if is_container {
            found.add(tgi::of_mode());
        }
        if let Some(profile) = found.value(PROFILE, matches) {
            let flags = profiles::flags(&profile).into_iter();
            let origin = || Origin::Profile(profile.clone());
            found.add(flags.map(|(flag, value)| Setting::new(flag, Value::Of(vec![value.into()]), origin())).collect());
        }
    }
    let at = words.iter().position(|word| word == "--").unwrap_or(words.len());
    words.splice(at..at, found.taken.iter().flat_map(Setting::arguments));
    let secret = command.get_arguments().filter(|arg| arg.is_hide_env_values_set()).filter_map(flag).collect();
    Ok((words, Settings { taken: found.taken, secret, unused: found.unused }))
}

/// What has been found so far; what comes first wins.
struct Found<'a> {
    command: &'a Command,
    /// What the command line has.
    given: Vec<&'a Arg>,
    taken: Vec<Setting>,
    unused: Vec<String>,
}

impl<'a> Found<'a> {
    fn new(command: &'a Command, matches: &ArgMatches) -> Self {
        let given = command.get_arguments().filter(|arg| source_is_command_line(matches, arg.get_id())).collect();
        Self { command, given, taken: Vec::new(), unused: Vec::new() }
    }

    /// Adds what one source says. Flags of other commands are left out, and those that do not go together with what is known.
    fn add(&mut self, source: Vec<Setting>) {
        let known = self.taken.len();
        for setting in source {
            let Some(arg) = self.command.get_arguments().find(|arg| arg.get_long() == Some(&setting.flag)) else {
                continue;
            };
            let is_given = self.given.iter().any(|given| given.get_id() == arg.get_id());
            if is_given || self.taken.iter().any(|taken| taken.flag == setting.flag) {
                continue;
            }
            match self.against(arg, known).filter(|_| setting.value != Value::Off) {
                Some(other) => {
                    let Setting { flag, origin, .. } = &setting;
                    let other = other.get_long().map_or_else(|| other.get_id().to_string(), |long| format!("--{long}"));
                    self.unused
                        .push(format!("{origin} is set for nothing: --{flag} does not go together with {other}"));
                }
                None => self.taken.push(setting),
            }
        }
    }

    /// What excludes the flag, on the command line or among the first `known` settings.
    fn against(&self, arg: &Arg, known: usize) -> Option<&'a Arg> {
        let on = self.taken[..known].iter().filter(|setting| setting.value != Value::Off);
        let on =
            on.filter_map(|setting| self.command.get_arguments().find(|arg| arg.get_long() == Some(&setting.flag)));
        self.given.iter().copied().chain(on).find(|other| conflict(self.command, arg, other))
    }

    /// The value of a flag that has one.
    fn value(&self, name: &str, matches: &ArgMatches) -> Option<String> {
        let set = self.taken.iter().find(|setting| setting.flag == name).map(|setting| &setting.value);
        match set {
            Some(Value::Of(values)) => values.first()?.to_str().map(str::to_owned),
            Some(_) => None,
            None => matches.try_get_one::<String>(name).ok()?.cloned(),
        }
    }

    /// Whether a switch is on.
    fn holds(&self, name: &str) -> bool {
        self.given.iter().any(|arg| arg.get_long() == Some(name))
            || self.taken.iter().any(|setting| setting.flag == name && setting.value == Value::On)
    }
}

impl Settings {
    fn of(&self, flag: &str) -> Option<&Setting> {
        self.taken.iter().find(|setting| setting.flag == flag)
    }

    /// A setting in words, for whoever wonders about a flag that he did not give.
    fn describe(&self, setting: &Setting) -> String {
        let Setting { flag, value, origin } = setting;
        match value {
            Value::Off => format!("{origin}: no --{flag}"),
            Value::On => format!("{origin}: --{flag}"),
            Value::Of(values) => format!("{origin}: --{flag} {}", shown(values, self.secret.contains(flag))),
        }
    }

    /// From where the flags are that an error of clap's is about; all, where it does not say.
    pub fn behind(&self, error: &clap::Error) -> Vec<String> {
        // Of an unknown word nothing else is the reason.
        if matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand) {
            return Vec::new();
        }
        let told: Vec<&str> = error.context().flat_map(|(kind, value)| told(kind, value)).collect();
        let is_told = |setting: &&Setting| {
            let flag = format!("--{}", setting.flag);
            told.iter().any(|text| text.split([' ', '=']).next() == Some(&flag))
        };
        let about: Vec<&Setting> = self.taken.iter().filter(is_told).collect();
        let all = || self.taken.iter().filter(|setting| setting.value != Value::Off).collect();
        let about: Vec<&Setting> = if about.is_empty() { all() } else { about };
        about.into_iter().map(|setting| self.describe(setting)).collect()
    }

    /// Says in the log what was found.
    pub fn log(&self) {
        self.taken.iter().for_each(|setting| info!("{}", self.describe(setting)));
        self.unused.iter().for_each(|text| warn!("{text}"));
    }
}

/// The arguments that an error names.
fn told(kind: ContextKind, value: &ContextValue) -> Vec<&str> {
    match (kind, value) {
        (ContextKind::InvalidArg | ContextKind::PriorArg, ContextValue::String(text)) => vec![text],
        (ContextKind::InvalidArg | ContextKind::PriorArg, ContextValue::Strings(texts)) => {
            texts.iter().map(String::as_str).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
