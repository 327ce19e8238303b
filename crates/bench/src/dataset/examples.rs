//! The prompts of `scripts/examples`.

use super::{Parameters, Prompt, Request};
use serde::Deserialize;

const PROMPTS: &str = include_str!("../../../../scripts/examples/prompts.json");

#[derive(Deserialize)]
struct Examples {
    base_parameters: Parameters,
    chat_parameters: Parameters,
    requests: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    model: String,
    inputs: String,
    parameters: Option<Parameters>,
}

/// A request for each, with its own parameters, else those of its kind of model.
pub(super) fn requests() -> Vec<Request> {
    let examples: Examples = serde_json::from_str(PROMPTS).expect("the examples are well formed");
    let Examples { base_parameters, chat_parameters, requests } = examples;
    let request = |example: Example| {
        let usual = if example.model == "base" { &base_parameters } else { &chat_parameters };
        Request {
            prompt: Prompt::Text(example.inputs),
            parameters: example.parameters.unwrap_or_else(|| usual.clone()),
            ignore_eos: false,
            cancel_after: None,
        }
    };
    requests.into_iter().map(request).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_keep_their_parameters() {
        let requests = requests();
        assert!(requests.len() > 10);
        assert_eq!(requests[0].parameters.max_new_tokens, 768);
        let drawn = requests.iter().find(|request| request.parameters.top_p.is_some()).expect("one draws");
        assert_eq!((drawn.parameters.top_p, drawn.parameters.temperature), (Some(0.9), Some(0.6)));
    }
}
