//! The requests: every face and kind of parameter.

use crate::support::request;
use serde_json::{Value, json};
use wire::generation as pb;

/// How an HTTP answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One JSON text.
    Whole,
    /// TGI's events.
    TgiEvents,
    /// OpenAI's events.
    OpenAiEvents,
}

/// A request whose answer is known.
#[derive(Clone, Debug)]
pub enum Case {
    /// `Generate`, or `GenerateStream`.
    Grpc { request: Box<pb::GenerateRequest>, stream: bool },
    /// A POST.
    Http { path: &'static str, body: String, shape: Shape },
}

const PROMPTS: [&str; 8] = [
    "Once upon a time",
    "The fox said",
    "The king had",
    "User: What is the capital of Italy?\nFalcon:",
    "A hungry boy named Milo came to the castle, and",
    "One day the wolf and the hare",
    "In a small village near the sea there lived",
    "User: How much is 2 plus 3?\nFalcon:",
];

/// So many requests, each another.
pub fn cases(count: usize, random: &mut fastrand::Rng) -> Vec<Case> {
    (0..count).map(|index| case(index, random)).collect()
}

fn case(index: usize, random: &mut fastrand::Rng) -> Case {
    let prompt = PROMPTS[random.usize(..PROMPTS.len())];
    // Some are computed in several parts, and share their beginning with others.
    let prompt = if random.f32() < 0.25 { prompt.repeat(random.usize(10..40)) } else { prompt.to_owned() };
    let (tokens, seed) = (random.u32(60..200), random.u64(..1 << 32));
    match index % 10 {
        4 => tgi("/generate_stream", &prompt, &tgi_sampled(tokens, seed), Shape::TgiEvents),
        5 => {
            let parameters = json!({"max_new_tokens": tokens, "details": true, "decoder_input_details": true,
                "top_n_tokens": 3, "repetition_penalty": 1.2, "ignore_eos": true});
            tgi("/generate", &prompt, &parameters, Shape::Whole)
        }
        6 => completion(
            &json!({"prompt": prompt, "max_tokens": tokens, "n": 2, "seed": seed, "temperature": 1.1, "stream": true,
                "logprobs": 2, "presence_penalty": 0.4, "frequency_penalty": 0.3, "ignore_eos": true}),
            Shape::OpenAiEvents,
        ),
        7 => completion(
            &json!({"prompt": [prompt, "The fox said"], "max_tokens": tokens, "best_of": 2, "seed": seed, "echo": true,
                "logprobs": 1, "temperature": 0.9, "top_k": 40, "min_p": 0.02}),
            Shape::Whole,
        ),
        8 => {
            let chat = json!({"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "seed": seed,
                "min_tokens": 40, "stream": true, "logprobs": true, "top_logprobs": 3, "temperature": 0.8});
            Case::Http { path: "/v1/chat/completions", body: chat.to_string(), shape: Shape::OpenAiEvents }
        }
        9 => {
            let parameters = json!({"max_new_tokens": tokens, "stop": [" the", "fox"], "min_tokens": 30});
            tgi("/generate_stream", &prompt, &parameters, Shape::TgiEvents)
        }
        kind => grpc(kind, &prompt, tokens, seed),
    }
}

fn grpc(kind: usize, prompt: &str, tokens: u32, seed: u64) -> Case {
    let plain = pb::Parameters {
        max_new_tokens: Some(tokens),
        details: Some(true),
        ignore_eos: Some(true),
        top_n_tokens: Some(2),
        ..Default::default()
    };
    let sampled = pb::Parameters { do_sample: Some(true), seed: Some(seed), temperature: Some(0.9), ..plain.clone() };
    let (parameters, stream) = match kind {
        0 => (plain, true),
        1 => {
            let penalties = pb::Parameters {
                top_p: Some(0.9),
                repetition_penalty: Some(1.1),
                frequency_penalty: Some(0.2),
                watermark: Some(true),
                ..sampled
            };
            (penalties, true)
        }
        2 => {
            let stopped = pb::Parameters {
                stop: vec![" king".to_owned(), " was".to_owned()],
                typical_p: Some(0.9),
                top_k: Some(50),
                min_tokens: Some(50),
                ..sampled
            };
            (stopped, true)
        }
        _ => {
            // TGI lets nobody choose the seed of these. This temperature draws nothing, and counts as sampling.
            let best = pb::Parameters {
                best_of: Some(2),
                temperature: Some(1.0),
                decoder_input_details: Some(true),
                count_frequency_penalty: Some(0.3),
                ..plain
            };
            (best, false)
        }
    };
    Case::Grpc { request: Box::new(request(prompt, parameters)), stream }
}

fn tgi_sampled(tokens: u32, seed: u64) -> Value {
    json!({"max_new_tokens": tokens, "details": true, "do_sample": true, "seed": seed, "temperature": 1.2, "top_p": 0.95,
        "watermark": true, "presence_penalty": 0.5, "logit_bias": {"200": 1.5}, "ignore_eos": true})
}

fn tgi(path: &'static str, prompt: &str, parameters: &Value, shape: Shape) -> Case {
    let body = json!({"inputs": prompt, "parameters": parameters}).to_string();
    Case::Http { path, body, shape }
}

fn completion(body: &Value, shape: Shape) -> Case {
    Case::Http { path: "/v1/completions", body: body.to_string(), shape }
}
