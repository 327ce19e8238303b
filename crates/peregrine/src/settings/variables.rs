//! `PEREGRINE_…`: a variable for each flag.

use super::flags::{common_flags, flags, nearest, of_text};
use super::{CONFIG, Origin, Setting};
use anyhow::{Context, Result};
use clap::Command;
use std::ffi::OsString;
use std::path::PathBuf;

const PREFIX: &str = "PEREGRINE_";

/// Above this, a name is another one misspelt. Kubernetes sets names with this prefix for a service that is called peregrine, and
/// scripts have their own.
const ALIKE: f64 = 0.8;

/// The environment.
pub(super) struct Variables(pub(super) Vec<(OsString, OsString)>);

/// The variable of a flag. Within a group of commands, such as `bench`, its name has the group's.
fn name(path: &[&str], flag: &str) -> String {
    let groups = &path[..path.len() - 1];
    let words: Vec<&str> = groups.iter().copied().chain([flag]).collect();
    PREFIX.to_owned() + &words.join("_").replace('-', "_").to_uppercase()
}

impl Variables {
    /// A variable's value; an empty one is none.
    pub(super) fn get(&self, name: &str) -> Option<OsString> {
        let found = self.0.iter().find(|(other, value)| other == name && !value.is_empty());
        found.map(|(_, value)| value.clone())
    }

    /// Where the file is.
    pub(super) fn config(&self) -> Option<PathBuf> {
        self.get(&name(&[""], CONFIG)).map(PathBuf::from)
    }

    /// What they say of a command's flags.
    pub(super) fn settings(&self, path: &[&str], command: &Command) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        for flag in flags(command) {
            let name = name(path, &flag);
            let Some(text) = self.get(&name) else { continue };
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&flag)).expect("it is one of them");
            let value = of_text(arg, text).with_context(|| name.clone())?;
            settings.push(Setting::new(&flag, value, Origin::Variable(name)));
        }
        Ok(settings)
    }

    /// Names that are nearly those of flags.
    pub(super) fn misspelt(&self, program: &Command) -> Vec<String> {
        let known = common_flags(program);
        let names = self.0.iter().filter_map(|(name, _)| name.to_str()?.strip_prefix(PREFIX));
        let misspelt = names.filter_map(|found| {
            let flag = found.replace('_', "-").to_lowercase();
            let meant = nearest(&flag, known.iter().map(String::as_str))?;
            let alike = strsim::normalized_damerau_levenshtein(&flag, meant);
            let told = || format!("{PREFIX}{found} is set for nothing; is {} meant?", name(&[""], meant));
            (meant != flag && flag != CONFIG && alike > ALIKE).then(told)
        });
        misspelt.collect()
    }
}
