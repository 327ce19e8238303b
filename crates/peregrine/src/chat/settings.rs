//! The parameters of a conversation, which its commands change. The table of them is that of the flags.

use crate::parameters::ParameterArgs;
use anyhow::{Context, Result, anyhow, bail};
use api::Priority;
use clap::{Arg, ArgAction, Args, Command, FromArgMatches};
use serde_json::{Map, Value};
use server::dialects::tgi::{self, GenerateRequest, Inputs, Parameters, message};

/// What takes a parameter back.
const OFF: &str = "off";

/// What is set, by TGI's names.
#[derive(Clone, Debug, Default)]
pub struct Settings(Map<String, Value>);

impl Settings {
    /// Those of the command line.
    ///
    /// # Errors
    ///
    /// The first rule that they break.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        let settings = Self(values(parameters)?);
        settings.check()?;
        Ok(settings)
    }

    /// As a request takes them.
    pub fn parameters(&self) -> Parameters {
        serde_json::from_value(Value::Object(self.0.clone())).expect("they were made of parameters")
    }

    /// As JSON.
    pub fn values(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Sets a parameter from what was typed. Texts and tokens are added to those that are there.
    ///
    /// # Errors
    ///
    /// What is wrong with it. Nothing has changed then.
    pub fn set(&mut self, parameter: &Arg, text: &str) -> Result<()> {
        let (name, mut changed) = (key(parameter), self.clone());
        if text == OFF {
            changed.0.remove(&name);
        } else {
            match (changed.0.get_mut(&name), parse(parameter, text)?) {
                (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
                (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
                (_, new) => drop(changed.0.insert(name, new)),
            }
        }
        changed.check()?;
        *self = changed;
        Ok(())
    }

    /// What a parameter is.
    pub fn show(&self, parameter: &Arg) -> String {
        let name = key(parameter);
        let value = self.0.get(&name).map_or_else(|| "not set".to_owned(), Value::to_string);
        format!("{name}: {value}. {}\n", about(parameter))
    }

    /// Holds all against the rules of requests, but those that the model sets.
    fn check(&self) -> Result<()> {
        let limits = tgi::Limits { max_best_of: 1, max_stop_sequences: usize::MAX, max_top_n_tokens: u32::MAX };
        let (inputs, priority) = (Inputs::Ids(vec![0]), Priority::Normal);
        let request = GenerateRequest { inputs, parameters: self.parameters(), stream: true, priority };
        let any_model = api::Limits::of_model(u32::MAX as usize, u32::MAX as usize, usize::MAX);
        let checked = request.translate(true, &limits).and_then(|request| api::check(request, &any_model, 0));
        checked.map(drop).map_err(|violation| anyhow!("{}", message(&violation)))
    }
}

/// All parameters, in the order of the flags.
pub fn all() -> Vec<Arg> {
    ParameterArgs::augment_args(Command::new("parameters")).get_arguments().cloned().collect()
}

/// The parameter that somebody means: its name may have hyphens or underscores.
pub fn find(name: &str) -> Option<Arg> {
    let name = name.replace('_', "-");
    let is_it =
        |arg: &Arg| arg.get_long() == Some(&name) || arg.get_all_aliases().is_some_and(|all| all.contains(&&*name));
    all().into_iter().find(is_it)
}

/// How it is typed: its name and what follows.
pub fn usage(parameter: &Arg) -> String {
    let value = match parameter.get_value_names() {
        Some([value]) if !is_switch(parameter) => value.as_str(),
        _ => "on",
    };
    format!("{} {value}", parameter.get_long().unwrap_or_default())
}

/// What it does.
pub fn about(parameter: &Arg) -> String {
    parameter.get_help().map(ToString::to_string).unwrap_or_default()
}

fn is_switch(parameter: &Arg) -> bool {
    matches!(parameter.get_action(), ArgAction::SetTrue)
}

fn key(parameter: &Arg) -> String {
    parameter.get_id().as_str().to_owned()
}

/// The value that was typed.
fn parse(parameter: &Arg, text: &str) -> Result<Value> {
    let (name, flag) = (key(parameter), format!("--{}", parameter.get_long().unwrap_or_default()));
    let word = match is_switch(parameter) {
        true if text == "on" => flag,
        true => bail!("`{name}` is on or off. Given: {text}"),
        false => format!("{flag}={}", unescaped(text)),
    };
    let command = ParameterArgs::augment_args(Command::new("parameters").no_binary_name(true));
    let args = command.try_get_matches_from([word]).and_then(|matches| ParameterArgs::from_arg_matches(&matches));
    let args = args.map_err(|error| {
        // What follows on other lines is for command lines.
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        anyhow!("`{name}`: {line}. {}", about(parameter))
    })?;
    values(&args.into())?.remove(&name).with_context(|| format!("`{name}` must be a finite number. Given: {text}"))
}

/// Line breaks are typed as `\n`.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text.chars());
    while let Some(c) = rest.next() {
        match (c, rest.clone().next()) {
            ('\\', Some(escaped @ ('n' | 't' | '\\'))) => {
                rest.next();
                out.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    same => same,
                });
            }
            _ => out.push(c),
        }
    }
    out
}

/// The parameters that are not their defaults, by name.
fn values(parameters: &Parameters) -> Result<Map<String, Value>> {
    // By way of text, in which an f32 has no more digits than it needs.
    let all = |parameters: &Parameters| -> Result<Map<String, Value>> {
        Ok(serde_json::from_str(&serde_json::to_string(parameters)?)?)
    };
    let (mut values, defaults) = (all(parameters)?, all(&Parameters::default())?);
    values.retain(|name, value| defaults.get(name) != Some(value));
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(settings: &mut Settings, name: &str, text: &str) -> Result<(), String> {
        settings.set(&find(name).expect("a parameter"), text).map_err(|error| error.to_string())
    }

    /// Each parameter can be typed, is what it was typed as, and can be taken back.
    #[test]
    fn every_parameter_is_set_and_taken_back() {
        let mut settings = Settings::default();
        for parameter in all() {
            let name = key(&parameter);
            let text = match &*name {
                _ if is_switch(&parameter) => "on",
                "stop" => r"a\nb",
                "logit_bias" => "5=-2.5",
                "stop_token_ids" => "7,8",
                "max_new_tokens" | "top_k" | "seed" | "truncate" | "min_tokens" => "9",
                _ => "0.7",
            };
            settings.set(&parameter, text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(settings.show(&parameter).starts_with(&format!("{name}: ")), "{name}");
        }
        assert_eq!(settings.values().len(), all().len());
        let parameters = settings.parameters();
        assert_eq!((parameters.temperature, parameters.seed, parameters.watermark), (Some(0.7), Some(9), true));
        assert_eq!((parameters.stop, parameters.logit_bias), (vec!["a\nb".to_owned()], [(5, -2.5)].into()));
        for parameter in all() {
            settings.set(&parameter, OFF).expect("it can be taken back");
        }
        assert_eq!(settings.parameters(), Parameters::default());
    }

    #[test]
    fn texts_and_tokens_are_added() {
        let mut settings = Settings::default();
        for (name, text) in [("stop", "a"), ("stop", "b"), ("stop_token_ids", "1,2"), ("stop-token-ids", "3")] {
            set(&mut settings, name, text).expect(name);
        }
        let parameters = settings.parameters();
        assert_eq!((parameters.stop, parameters.stop_token_ids), (vec!["a".into(), "b".into()], vec![1, 2, 3]));
    }

    #[test]
    fn errors_name_the_parameter_and_its_range_and_change_nothing() {
        let mut settings = Settings::default();
        set(&mut settings, "max-tokens", "5").expect("another name of max_new_tokens");
        let before = settings.clone();
        for (name, text, message) in [
            ("temperature", "-1", "`temperature` must be strictly positive"),
            ("temperature", "warm", "`temperature`: invalid value 'warm'"),
            ("temperature", "inf", "`temperature` must be a finite number. Given: inf"),
            ("top_p", "1", "`top_p` must be > 0.0 and < 1.0"),
            ("min_p", "2", "`min_p` must be >= 0.0 and <= 1.0"),
            ("presence_penalty", "3", "`presence_penalty` must be >= -2.0 and <= 2.0"),
            ("max_new_tokens", "0", "`max_new_tokens` must be strictly positive"),
            ("logit_bias", "5=200", "`logit_bias` must be >= -100.0 and <= 100.0"),
            ("logit_bias", "5", "expected a token id, =, and a number"),
            ("watermark", "yes", "`watermark` is on or off. Given: yes"),
        ] {
            let error = set(&mut settings, name, text).expect_err(text);
            assert!(error.contains(message), "{name} {text}: {error}");
            assert_eq!(settings.values(), before.values());
        }
    }
}
