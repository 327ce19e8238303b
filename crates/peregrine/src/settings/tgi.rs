//! The variables of Text Generation Inference's (TGI) launcher, and of SageMaker, which sets some for it: `serve` understands what they
//! ask for. docs/tgi.md has the table.

use super::{Origin, Setting, Value, flags};
use Meaning::{Address, Flag, Off, On, Refused, Revision, Unused};
use Scope::{Always, Mode};
use anyhow::{Context, Result, bail};
use clap::Command;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;

/// The flag of the mode in which this is one of SageMaker's containers.
pub(super) const MODE: &str = "sagemaker";

/// Where SageMaker puts a model.
const MODEL_DIR: &str = "/opt/ml/model";

/// Where SageMaker asks a container.
const ADDRESS: &str = "0.0.0.0:8080";

/// What a variable means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It is the value of this flag.
    Flag(&'static str),
    /// If true, this flag has this value.
    On(&'static str, &'static str),
    /// If false, this switch is on.
    Off(&'static str),
    /// A part of the address for HTTP.
    Address,
    /// The revision of the model that a variable names.
    Revision,
    /// Nothing, and this is why.
    Unused(&'static str),
    /// What it asks for does not exist here, and answers without it would not be what was asked for.
    Refused(&'static str),
}

/// When a variable is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Whenever a model is served.
    Always,
    /// With `--sagemaker` alone: its name is so general that it may be another program's.
    Mode,
}

/// Why a variable has no effect, or none that is allowed.
const BF16: &str = "weights and the KV cache are bfloat16";
const NO_CODE: &str = "no code of a model is run";
const NO_QUANTIZATION: &str = "weights are bfloat16, and are not quantized";
const NO_WAITING: &str = "a step takes every waiting request for which there is room";
const WATERMARK: &str = "gamma is 0.5, and delta 2.0";

/// All that TGI's launcher reads and that concerns a model, its limits or its server. Of those with one meaning the first that is set counts.
const VARIABLES: &[(&str, Meaning, Scope)] = &[
    ("HF_MODEL_ID", Flag("model"), Always),
    ("MODEL_ID", Flag("model"), Always),
    ("HF_MODEL_REVISION", Revision, Always),
    ("REVISION", Revision, Always),
    ("SM_NUM_GPUS", Flag("tensor-parallel"), Always),
    ("NUM_SHARD", Flag("tensor-parallel"), Always),
    ("SAGEMAKER_BIND_TO_PORT", Address, Mode),
    ("PORT", Address, Always),
    ("HOSTNAME", Address, Always),
    ("MAX_INPUT_TOKENS", Flag("max-input-length"), Always),
    ("MAX_INPUT_LENGTH", Flag("max-input-length"), Always),
    ("MAX_TOTAL_TOKENS", Flag("max-total-tokens"), Always),
    ("MAX_CONCURRENT_REQUESTS", Flag("max-concurrent-requests"), Always),
    ("MAX_BATCH_SIZE", Flag("max-batch-size"), Always),
    ("MAX_BATCH_PREFILL_TOKENS", Flag("max-batch-tokens"), Always),
    ("MAX_BATCH_TOTAL_TOKENS", Flag("kv-tokens"), Always),
    ("MAX_BEST_OF", Flag("max-best-of"), Always),
    ("MAX_STOP_SEQUENCES", Flag("max-stop-sequences"), Always),
    ("MAX_TOP_N_TOKENS", Flag("max-top-n-tokens"), Always),
    ("PAYLOAD_LIMIT", Flag("payload-limit"), Always),
    ("VALIDATION_WORKERS", Flag("tokenizer-threads"), Always),
    ("CORS_ALLOW_ORIGIN", Flag("cors-allow-origin"), Always),
    ("OTLP_ENDPOINT", Flag("otlp-endpoint"), Always),
    ("JSON_OUTPUT", On("log-format", "json"), Always),
    ("PREFIX_CACHING", Off("no-prefix-cache"), Always),
    ("HF_MODEL_QUANTIZE", Refused(NO_QUANTIZATION), Always),
    ("QUANTIZE", Refused(NO_QUANTIZATION), Always),
    ("LORA_ADAPTERS", Refused("there are no adapters"), Always),
    ("ROPE_SCALING", Refused("positions are those of config.json"), Always),
    ("ROPE_FACTOR", Refused("positions are those of config.json"), Always),
    ("API_KEY", Refused("keys are read from a file: --api-key-file"), Mode),
    ("DTYPE", Unused(BF16), Mode),
    ("KV_CACHE_DTYPE", Unused(BF16), Always),
    ("HF_MODEL_TRUST_REMOTE_CODE", Unused(NO_CODE), Always),
    ("TRUST_REMOTE_CODE", Unused(NO_CODE), Always),
    ("SHARDED", Unused("NUM_SHARD says over how many workers"), Mode),
    ("SPECULATE", Unused("tokens are not drafted; answers are the same"), Mode),
    ("WAITING_SERVED_RATIO", Unused(NO_WAITING), Always),
    ("MAX_WAITING_TOKENS", Unused(NO_WAITING), Always),
    ("CUDA_MEMORY_FRACTION", Unused("memory is planned by formulas; MAX_BATCH_TOTAL_TOKENS sets the KV cache"), Always),
    ("CUDA_GRAPHS", Unused("steps of up to 64 sequences are captured"), Mode),
    ("WATERMARK_GAMMA", Unused(WATERMARK), Always),
    ("WATERMARK_DELTA", Unused(WATERMARK), Always),
    ("DISABLE_GRAMMAR_SUPPORT", Unused("there are no grammars"), Always),
    ("TOKENIZER_CONFIG_PATH", Unused("--chat-template has the template"), Always),
    ("MESSAGES_API_ENABLED", Unused("/invocations tells chats by their keys"), Always),
    ("USAGE_STATS", Unused("nothing is reported to anybody"), Always),
];

/// What the variables say, and which of them are set for nothing.
///
/// # Errors
///
/// If a variable asks for what does not exist here.
pub(super) fn settings(
    serve: &Command,
    variable: &impl Fn(&str) -> Option<OsString>,
    is_container: bool,
) -> Result<(Vec<Setting>, Vec<String>)> {
    let (mut settings, mut unused) = (address(serve, variable, is_container), Vec::new());
    let mut revision = None;
    for &(name, meaning, _) in VARIABLES.iter().filter(|(_, _, scope)| is_container || *scope == Always) {
        let Some(text) = variable(name) else { continue };
        let mut set = |flag, value| settings.push(Setting::new(flag, value, Origin::Variable(name.to_owned())));
        match meaning {
            Flag(flag) => set(flag, value_of(serve, flag, text).with_context(|| name)?),
            On(flag, value) if is_on(name, &text)? => set(flag, Value::Of(vec![value.into()])),
            Off(flag) if !is_on(name, &text)? => set(flag, Value::On),
            Revision => revision = revision.or(Some((name, text))),
            Unused(why) => unused.push(format!("{name} is set for nothing: {why}")),
            Refused(why) => bail!("{name} is set, and cannot be followed: {why}"),
            On(..) | Off(_) | Address => {}
        }
    }
    if let Some((name, revision)) = revision {
        let model = settings.iter_mut().find(|setting| setting.flag == "model");
        if !model.is_some_and(|model| append(model, &revision)) {
            unused.push(format!(
                "{name} is set for nothing: HF_MODEL_ID or MODEL_ID names no repository; a folder has one revision"
            ));
        }
    }
    Ok((settings, unused))
}

/// What holds with the mode, where nothing else is said.
pub(super) fn of_mode() -> Vec<Setting> {
    let flags = [("model", MODEL_DIR), ("http-addr", ADDRESS)];
    flags.map(|(flag, value)| Setting::new(flag, Value::Of(vec![value.into()]), Origin::Mode(MODE))).to_vec()
}

fn value_of(serve: &Command, flag: &str, text: OsString) -> Result<Value> {
    let arg = serve.get_arguments().find(|arg| arg.get_long() == Some(flag));
    flags::of_text(arg.expect("a flag of the table is one of serve's"), text)
}

fn is_on(name: &str, text: &OsString) -> Result<bool> {
    flags::truth(text).with_context(|| name.to_owned())
}

/// Makes the revision a part of the model's name. A folder has none.
fn append(model: &mut Setting, revision: &OsString) -> bool {
    let Value::Of(values) = &mut model.value else { return false };
    let [name] = &mut values[..] else { return false };
    let is_repository = !Path::new(name).exists() && !name.as_encoded_bytes().contains(&b'@');
    if is_repository {
        name.push("@");
        name.push(revision);
    }
    is_repository
}

/// Where HTTP listens. Containers set HOSTNAME to their own name, of which another machine might know an address, and this one not: only
/// an address counts, as TGI's image has it.
fn address(serve: &Command, variable: &impl Fn(&str) -> Option<OsString>, is_container: bool) -> Vec<Setting> {
    const FLAG: &str = "http-addr";
    let default = serve.get_arguments().find(|arg| arg.get_long() == Some(FLAG)).map(|arg| arg.get_default_values());
    let default = if is_container { ADDRESS } else { default.and_then(|it| it.first()?.to_str()).unwrap_or(ADDRESS) };
    let (host, port) = default.rsplit_once(':').expect("an address has a port");
    let (port_name, host_name) =
        if is_container { ("SAGEMAKER_BIND_TO_PORT", None) } else { ("PORT", Some("HOSTNAME")) };
    let new_port = variable(port_name).map(|port| (port_name, port));
    let ip = |text: OsString| text.to_str()?.parse::<IpAddr>().ok();
    let new_host = host_name.and_then(|name| Some((name, ip(variable(name)?)?)));
    let Some(name) = new_port.as_ref().map(|(name, _)| *name).or(new_host.map(|(name, _)| name)) else {
        return Vec::new();
    };
    let host = match new_host {
        Some((_, IpAddr::V6(ip))) => format!("[{ip}]"),
        Some((_, ip)) => ip.to_string(),
        None => host.to_owned(),
    };
    let mut address = OsString::from(host + ":");
    address.push(new_port.map_or_else(|| port.into(), |(_, port)| port));
    vec![Setting::new(FLAG, Value::Of(vec![address]), Origin::Variable(name.to_owned()))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeMap;

    type Made = Result<(BTreeMap<String, String>, Vec<String>)>;

    /// Flags and their values, and what is said of the rest.
    fn of(variables: &[(&str, &str)], is_container: bool) -> Made {
        let program = crate::Cli::command();
        let serve = program.find_subcommand("serve").expect("a command");
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let (settings, unused) = settings(serve, &variable, is_container)?;
        // The first counts.
        let values =
            settings.into_iter().rev().map(|setting| (setting.flag.clone(), setting.arguments().join(" ".as_ref())));
        Ok((values.map(|(flag, words)| (flag, words.into_string().expect("text"))).collect(), unused))
    }

    #[test]
    fn jumpstarts_environment() {
        let variables = [
            ("HF_MODEL_ID", "/opt/ml/model"),
            ("SM_NUM_GPUS", "8"),
            ("MAX_INPUT_LENGTH", "1024"),
            ("MAX_TOTAL_TOKENS", "2048"),
            ("ENDPOINT_SERVER_TIMEOUT", "3600"),
            ("SAGEMAKER_MODEL_SERVER_WORKERS", "1"),
            ("HF_MODEL_TRUST_REMOTE_CODE", "true"),
        ];
        let (flags, unused) = of(&variables, true).expect("all is known");
        let expected =
            ["--max-input-length=1024", "--max-total-tokens=2048", "--model=/opt/ml/model", "--tensor-parallel=8"];
        assert_eq!(flags.into_values().collect::<Vec<_>>(), expected);
        assert_eq!(unused, ["HF_MODEL_TRUST_REMOTE_CODE is set for nothing: no code of a model is run"]);
    }

    #[test]
    fn addresses() {
        let of =
            |variables: &[_], is_container| of(variables, is_container).expect("all is known").0.remove("http-addr");
        let at = |address: &str| Some(format!("--http-addr={address}"));
        assert_eq!(of(&[("PORT", "3000")], false), at("127.0.0.1:3000"));
        assert_eq!(of(&[("PORT", "3000"), ("HOSTNAME", "0.0.0.0")], false), at("0.0.0.0:3000"));
        assert_eq!(of(&[("HOSTNAME", "::")], false), at("[::]:8080"));
        assert_eq!(of(&[("HOSTNAME", "ip-10-0-0-1")], false), None, "a container's name of itself");
        assert_eq!(
            of(&[("PORT", "3"), ("HOSTNAME", "::"), ("SAGEMAKER_BIND_TO_PORT", "9000")], true),
            at("0.0.0.0:9000")
        );
        assert_eq!(of(&[("PORT", "3")], true), None);
    }

    #[test]
    fn the_first_variable_counts_and_general_names_need_the_mode() {
        let of = |variables: &[_]| of(variables, false).expect("all is known");
        assert_eq!(of(&[("NUM_SHARD", "4"), ("SM_NUM_GPUS", "8")]).0["tensor-parallel"], "--tensor-parallel=8");
        assert_eq!(of(&[("API_KEY", "x"), ("DTYPE", "float16"), ("SAGEMAKER_BIND_TO_PORT", "1")]), Default::default());
        let (flags, unused) = of(&[("JSON_OUTPUT", "true"), ("PREFIX_CACHING", "0"), ("USAGE_STATS", "off")]);
        assert_eq!(flags.into_values().collect::<Vec<_>>(), ["--log-format=json", "--no-prefix-cache"]);
        assert_eq!(unused.len(), 1);
        assert!(of(&[("JSON_OUTPUT", "false"), ("PREFIX_CACHING", "1")]).0.is_empty());
    }

    #[test]
    fn a_revision_is_that_of_a_repository() {
        let model = |id| of(&[("MODEL_ID", id), ("REVISION", "v1")], false).expect("all is known");
        assert_eq!(model("tiiuae/falcon-7b").0["model"], "--model=tiiuae/falcon-7b@v1");
        let (flags, unused) = model("/");
        assert_eq!((&*flags["model"], unused.len()), ("--model=/", 1));
    }

    #[test]
    fn what_would_change_answers_is_refused() {
        for (name, meaning, _) in VARIABLES.iter().filter(|(_, meaning, _)| matches!(meaning, Refused(_))) {
            let error = of(&[(name, "x")], true).expect_err("it cannot be followed").to_string();
            assert!(error.starts_with(name), "{meaning:?}: {error}");
        }
        let error = format!("{:#}", of(&[("JSON_OUTPUT", "perhaps")], false).expect_err("neither true nor false"));
        assert_eq!(error, r#"JSON_OUTPUT: expected true or false, found "perhaps""#);
    }

    /// docs/tgi.md has a line for each, with its flag.
    #[test]
    fn every_variable_is_documented_and_no_other() {
        let text = include_str!("../../../../docs/tgi.md");
        let (_, table) = text.split_once("## Its launcher's variables").expect("a section");
        let lines: Vec<&str> = table.lines().take_while(|line| !line.starts_with("## ")).collect();
        let rows = || lines.iter().filter(|line| line.starts_with("| `"));
        let names: Vec<&str> = rows()
            .flat_map(|row| row.split(" | ").next())
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        let known: Vec<&str> = VARIABLES.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(names, known, "in the code's order");
        for (name, meaning, scope) in VARIABLES {
            let row = rows().find(|row| row.contains(&format!("`{name}`"))).expect("seen above");
            let expected = match meaning {
                Flag(flag) | On(flag, _) | Off(flag) => format!("`--{flag}"),
                Address => "`--http-addr`".to_owned(),
                Revision => "`--model`".to_owned(),
                Unused(_) => "nothing".to_owned(),
                Refused(_) => "refused".to_owned(),
            };
            assert!(row.contains(&expected), "{name}: {expected}: {row}");
            assert_eq!(row.contains("with `--sagemaker`"), *scope == Mode, "{row}");
        }
    }
}
