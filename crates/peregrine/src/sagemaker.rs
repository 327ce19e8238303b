//! `serve --sagemaker`: the arguments that follow from the variables by which SageMaker sets up a container of Text Generation
//! Inference (TGI). docs/sagemaker.md has the table.

use Meaning::{Flag, Port, Refused, Unused};
use std::ffi::{OsStr, OsString};
use tracing::{info, warn};

const MODE: &str = "--sagemaker";

/// Where SageMaker puts a model.
const MODEL_DIR: &str = "/opt/ml/model";

/// Where SageMaker asks a container.
const PORT: &str = "8080";

/// What a variable means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It is the value of this flag.
    Flag(&'static str),
    /// The port of `--http-addr`.
    Port,
    /// Nothing, and this is why.
    Unused(&'static str),
    /// What it asks for does not exist here, and answers without it would not be what was asked for.
    Refused(&'static str),
}

/// All that TGI's container knows and that concerns a model or its limits. Of those with one meaning the first that is set counts.
const VARIABLES: &[(&str, Meaning)] = &[
    ("HF_MODEL_ID", Flag("--model")),
    ("MODEL_ID", Flag("--model")),
    ("SM_NUM_GPUS", Flag("--tensor-parallel")),
    ("NUM_SHARD", Flag("--tensor-parallel")),
    ("SAGEMAKER_BIND_TO_PORT", Port),
    ("MAX_INPUT_TOKENS", Flag("--max-input-length")),
    ("MAX_INPUT_LENGTH", Flag("--max-input-length")),
    ("MAX_TOTAL_TOKENS", Flag("--max-total-tokens")),
    ("MAX_CONCURRENT_REQUESTS", Flag("--max-concurrent-requests")),
    ("MAX_BATCH_SIZE", Flag("--max-batch-size")),
    ("MAX_BATCH_PREFILL_TOKENS", Flag("--max-batch-tokens")),
    ("MAX_BATCH_TOTAL_TOKENS", Flag("--kv-tokens")),
    ("MAX_BEST_OF", Flag("--max-best-of")),
    ("MAX_STOP_SEQUENCES", Flag("--max-stop-sequences")),
    ("MAX_TOP_N_TOKENS", Flag("--max-top-n-tokens")),
    ("PAYLOAD_LIMIT", Flag("--payload-limit")),
    ("VALIDATION_WORKERS", Flag("--tokenizer-threads")),
    ("HF_MODEL_QUANTIZE", Refused("weights are bfloat16")),
    ("QUANTIZE", Refused("weights are bfloat16")),
    ("LORA_ADAPTERS", Refused("there are no adapters")),
    ("ROPE_SCALING", Refused("positions are those of config.json")),
    ("API_KEY", Refused("keys are read from a file: --api-key-file")),
    ("DTYPE", Unused("weights and the KV cache are bfloat16")),
    ("KV_CACHE_DTYPE", Unused("weights and the KV cache are bfloat16")),
    ("HF_MODEL_TRUST_REMOTE_CODE", Unused("no code of a model is run")),
    ("TRUST_REMOTE_CODE", Unused("no code of a model is run")),
    ("HF_MODEL_REVISION", Unused("a folder has one revision")),
    ("REVISION", Unused("a folder has one revision")),
    ("WAITING_SERVED_RATIO", Unused("a step takes every waiting request for which there is room")),
    ("MAX_WAITING_TOKENS", Unused("a step takes every waiting request for which there is room")),
    ("CUDA_MEMORY_FRACTION", Unused("memory is planned by formulas; MAX_BATCH_TOTAL_TOKENS sets the KV cache")),
    ("CUDA_GRAPHS", Unused("steps of up to 64 sequences are captured")),
    ("WATERMARK_GAMMA", Unused("gamma is 0.5, and delta 2.0")),
    ("WATERMARK_DELTA", Unused("gamma is 0.5, and delta 2.0")),
    ("MESSAGES_API_ENABLED", Unused("/invocations tells chats by their keys")),
];

/// What was made of the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Variables that became flags, each with its flag's arguments.
    used: Vec<(&'static str, Vec<OsString>)>,
    /// Variables that are set for nothing, and why.
    unused: Vec<(&'static str, &'static str)>,
}

/// `arguments` as they are, or, for `serve --sagemaker`, with those that follow from the environment. A flag that was given wins.
///
/// # Errors
///
/// If a variable asks for what does not exist here.
pub fn arguments(
    mut arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(Vec<OsString>, Environment), String> {
    let mut environment = Environment::default();
    if arguments.get(1).is_none_or(|command| command != "serve") || !is_given(&arguments, MODE) {
        return Ok((arguments, environment));
    }
    for &(name, meaning) in VARIABLES {
        let Some(value) = variable(name).filter(|value| !value.is_empty()) else { continue };
        let (flag, value) = match meaning {
            Flag(flag) => (flag, value),
            Port => ("--http-addr", address(&value)),
            Unused(why) => {
                environment.unused.push((name, why));
                continue;
            }
            Refused(why) => return Err(format!("{name} is set, and cannot be followed: {why}")),
        };
        if !is_given(&arguments, flag) {
            arguments.extend([flag.into(), value.clone()]);
            environment.used.push((name, vec![flag.into(), value]));
        }
    }
    for (flag, value) in [("--model", MODEL_DIR.into()), ("--http-addr", address(OsStr::new(PORT)))] {
        if !is_given(&arguments, flag) {
            arguments.extend([flag.into(), value]);
        }
    }
    Ok((arguments, environment))
}

impl Environment {
    /// Which flags came from where, for whoever wonders about one that he did not give.
    pub fn origins(&self) -> impl Iterator<Item = String> {
        self.used.iter().map(|(name, words)| format!("{name}: {}", words.join(OsStr::new(" ")).display()))
    }

    /// Says in the log what became of the variables.
    pub fn log(&self) {
        self.origins().for_each(|origin| info!("{origin}"));
        for (name, why) in &self.unused {
            warn!("{name} is set for nothing: {why}");
        }
    }
}

fn address(port: &OsStr) -> OsString {
    [OsStr::new("0.0.0.0:"), port].into_iter().collect()
}

/// Whether the flag is there, as a word of its own or with its value behind `=`.
fn is_given(arguments: &[OsString], flag: &str) -> bool {
    arguments.iter().any(|argument| {
        let rest = argument.as_encoded_bytes().strip_prefix(flag.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'=')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    fn of(line: &str, variables: &[(&str, &str)]) -> Result<(Vec<OsString>, Environment), String> {
        arguments(words(line), |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
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
            ("MAX_BEST_OF", ""),
        ];
        let (arguments, environment) = of("peregrine serve --sagemaker", &variables).expect("all is known");
        let expected = "peregrine serve --sagemaker --model /opt/ml/model --tensor-parallel 8 --max-input-length 1024 \
                        --max-total-tokens 2048 --http-addr 0.0.0.0:8080";
        assert_eq!(arguments, words(expected));
        let origins: Vec<_> = environment.origins().collect();
        assert_eq!((origins.len(), &*origins[1]), (4, "SM_NUM_GPUS: --tensor-parallel 8"));
        assert_eq!(environment.unused, [("HF_MODEL_TRUST_REMOTE_CODE", "no code of a model is run")]);
    }

    #[test]
    fn flags_win_and_the_first_variable_counts() {
        let variables = [("SM_NUM_GPUS", "8"), ("NUM_SHARD", "4"), ("PORT", "3"), ("SAGEMAKER_BIND_TO_PORT", "9000")];
        let (arguments, _) = of("peregrine serve --model=/m --sagemaker", &variables).expect("all is known");
        let expected = "peregrine serve --model=/m --sagemaker --tensor-parallel 8 --http-addr 0.0.0.0:9000";
        assert_eq!(arguments, words(expected));
        let given = "peregrine serve --sagemaker --tensor-parallel 2 --http-addr [::]:1 --model /m";
        assert_eq!(of(given, &variables).expect("all is known").0, words(given));
    }

    #[test]
    fn other_commands_and_modes_see_no_variable() {
        for line in ["peregrine", "peregrine serve", "peregrine generate --sagemaker", "peregrine serve --sagemakers"] {
            let unchanged = of(line, &[("SM_NUM_GPUS", "8"), ("QUANTIZE", "gptq")]);
            assert_eq!(unchanged, Ok((words(line), Environment::default())));
        }
    }

    #[test]
    fn what_would_change_answers_is_refused() {
        for (name, _) in VARIABLES.iter().filter(|(_, meaning)| matches!(meaning, Refused(_))) {
            let error = of("peregrine serve --sagemaker", &[(name, "x")]).expect_err("it cannot be followed");
            assert!(error.starts_with(name), "{error}");
        }
    }

    #[test]
    fn every_variable_is_documented() {
        let text = include_str!("../../../docs/sagemaker.md");
        for (name, meaning) in VARIABLES {
            assert!(text.contains(&format!("`{name}`")), "docs/sagemaker.md has no {name}");
            if let Flag(flag) = meaning {
                assert!(text.contains(&format!("`{flag}`")), "docs/sagemaker.md has no {flag}");
            }
        }
    }
}
