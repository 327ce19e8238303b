//! The file of `--config`, in TOML. Keys outside of sections are flags of every command that has them; a section has a command's name.

use super::flags::{commands, common_flags, flags, is_list, is_switch, nearest};
use super::{Origin, Setting, Value};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Arg, Command};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// A file, and its text.
pub(super) struct File {
    path: PathBuf,
    text: String,
}

/// A key of a table, with where it begins in the text.
struct Key<'a> {
    name: &'a str,
    at: usize,
    value: &'a DeValue<'a>,
}

impl File {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// What it says of a command's flags: its section before what stands outside of sections.
    pub(super) fn settings(&self, program: &Command, path: &[&str], command: &Command) -> Result<Vec<Setting>> {
        let table = DeTable::parse(&self.text).map_err(|error| anyhow!("{}: {error}", self.path.display()))?;
        let table = table.get_ref();
        self.check(table, program, true)?;
        let section = path.iter().try_fold(table, |table, name| table.get(*name)?.get_ref().as_table());
        // The commands of a group have flags of their own meaning.
        let common = (path.len() == 1).then_some(table);
        let mut settings: Vec<Setting> = Vec::new();
        for key in section.into_iter().chain(common).flat_map(keys).filter(|key| key.value.as_table().is_none()) {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(key.name));
            let is_new = settings.iter().all(|setting| setting.flag != key.name);
            let Some(arg) = arg.filter(|_| is_new) else { continue };
            let (name, line) = (key.name, self.line(key.at));
            let value = read(arg, key.value).with_context(|| format!("{}:{line}: {name}", self.path.display()))?;
            settings.push(Setting::new(name, value, Origin::File(self.path.clone(), line)));
        }
        Ok(settings)
    }

    /// Every key is a flag, and every section a command.
    fn check(&self, table: &DeTable<'_>, command: &Command, is_program: bool) -> Result<()> {
        let known = if is_program { common_flags(command) } else { flags(command).collect() };
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let sections: Vec<&str> = commands(command).map(Command::get_name).collect();
        for key in keys(table) {
            match key.value.as_table() {
                Some(section) => match commands(command).find(|command| command.get_name() == key.name) {
                    Some(command) => self.check(section, command, false)?,
                    None => bail!("{}", self.unknown(&key, "section", "command", &sections)),
                },
                None => ensure!(known.contains(&key.name), "{}", self.unknown(&key, "key", "flag", &known)),
            }
        }
        Ok(())
    }

    fn unknown(&self, key: &Key<'_>, what: &str, of: &str, known: &[&str]) -> String {
        let meant = nearest(key.name, known.iter().copied()).map(|meant| format!("; the nearest is {meant}"));
        let place = format!("{}:{}", self.path.display(), self.line(key.at));
        format!("{place}: the {what} {} is no {of}{}", key.name, meant.unwrap_or_default())
    }

    /// The line of a place in the text, from 1.
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count()
    }
}

fn keys<'a>(table: &'a DeTable<'a>) -> impl Iterator<Item = Key<'a>> {
    table.iter().map(|(key, value)| Key { name: key.get_ref(), at: key.span().start, value: value.get_ref() })
}

fn read(arg: &Arg, value: &DeValue<'_>) -> Result<Value> {
    let words = match value {
        DeValue::Boolean(on) if is_switch(arg) => return Ok(if *on { Value::On } else { Value::Off }),
        DeValue::Array(values) if is_list(arg) => {
            values.iter().map(|value| word(value.get_ref())).collect::<Result<Vec<_>>>()?
        }
        one => vec![word(one)?],
    };
    ensure!(!is_switch(arg), "expected true or false, found {}", value.type_str());
    Ok(if words.is_empty() { Value::Off } else { Value::Of(words) })
}

/// A single value, as the command line would have it.
fn word(value: &DeValue<'_>) -> Result<OsString> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())?.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(on) => on.to_string(),
        other => bail!("expected one value, found {}", other.type_str()),
    };
    Ok(text.into())
}
