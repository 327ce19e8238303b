//! `peregrine config`: what holds for each flag of `serve`, and from where.

use super::Settings;
use super::flags::{flag, is_switch, shown, source_is_command_line};
use crate::output::print;
use crate::serve::ServeArgs;
use anyhow::Result;
use clap::{Arg, ArgMatches, Args, Command, ValueEnum};
use serde::Serialize;
use std::ffi::OsStr;

/// Arguments of `peregrine config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// The command whose flags are shown.
    #[arg(value_enum, default_value_t = Of::Serve, hide_possible_values = true)]
    _of: Of,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    _serve: ServeArgs,
}

/// A command whose flags can be shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    Serve,
}

/// A flag, what holds for it, and from where. The keys of its JSON stay.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Held {
    pub(super) flag: String,
    /// `None`: it is not set, and no fixed value holds.
    pub(super) value: Option<String>,
    pub(super) from: String,
}

/// Prints all flags of `serve`, of which `matches` has the values.
pub fn show(args: &ConfigArgs, settings: &Settings, matches: &ArgMatches) -> Result<()> {
    let serve = ServeArgs::augment_args(Command::new("serve"));
    let (_, matches) = matches.subcommand().expect("its own");
    let held = held(&serve, matches, settings);
    if args.json {
        return print(&(serde_json::to_string_pretty(&held)? + "\n"));
    }
    let width = |text: &dyn Fn(&Held) -> usize| held.iter().map(text).max().unwrap_or(0);
    let value = |held: &Held| held.value.clone().unwrap_or_else(|| "-".to_owned());
    let (flags, values) = (width(&|held| held.flag.len()), width(&|held| value(held).chars().count().min(40)));
    let line = |held: &Held| format!("--{:<flags$}  {:<values$}  {}\n", held.flag, value(held), held.from);
    print(&held.iter().map(line).collect::<String>())
}

/// All flags that are shown in the help.
pub(super) fn held(serve: &Command, matches: &ArgMatches, settings: &Settings) -> Vec<Held> {
    let args = serve.get_arguments().filter(|arg| !arg.is_hide_set());
    let held = args.filter_map(|arg| {
        let flag = flag(arg)?;
        let setting = settings.of(&flag);
        let from = match setting {
            Some(setting) => setting.origin.to_string(),
            None if source_is_command_line(matches, arg.get_id()) => "command line".to_owned(),
            None => "default".to_owned(),
        };
        Some(Held { value: value(arg, matches), flag, from })
    });
    held.collect()
}

fn value(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    let id = arg.get_id().as_str();
    if is_switch(arg) {
        return Some(if matches.get_flag(id) { "on" } else { "off" }.to_owned());
    }
    let values: Vec<&OsStr> = matches.get_raw(id)?.collect();
    Some(shown(&values, arg.is_hide_env_values_set()))
}
