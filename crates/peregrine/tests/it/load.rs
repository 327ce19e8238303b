//! Many requests at once: what they share, and what they must not hold.

use crate::lifecycle::begun;
use crate::support::{Client, Server, greedy, ids, model_dir, next_message, request, within};
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Request};
use wire::generation as pb;

/// More than one block of tokens.
const STORY: &str = "Once upon a time there was a king who had three sons, and the youngest of them was called";

/// The server's metrics by name, but for sums of times.
async fn metrics(server: &Server) -> HashMap<String, u64> {
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let value: f64 = value.parse().expect("a number");
        (value.fract() == 0.0).then_some((name.to_owned(), value as u64))
    };
    samples.filter_map(sample).collect()
}

async fn details(client: &Client, request: pb::GenerateRequest) -> pb::Details {
    client.generate(request).await.details.expect("asked for")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_prompt_that_is_known_is_not_computed_again_and_every_api_says_so() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let client = server.client().await;
    let first = details(&client, greedy(STORY, 20)).await;
    let cached = (first.prompt_tokens - 1) / 16 * 16;
    assert!(cached >= 16, "the prompt is too short for this test");
    assert_eq!(first.cached_tokens, 0);

    let second = details(&client, greedy(STORY, 20)).await;
    assert_eq!((second.cached_tokens, &second.tokens), (cached, &first.tokens), "the same tokens and probabilities");
    let mut stream = client.stream(greedy(STORY, 20)).await;
    let last = loop {
        let message = next_message(&mut stream).await;
        if let Some(details) = message.details {
            break details;
        }
    };
    assert_eq!(last.cached_tokens, cached);
    let body = format!(r#"{{"inputs": "{STORY}", "parameters": {{"details": true}}}}"#);
    let answer = server.post("/generate", &body).await;
    assert!(answer.body.contains(&format!(r#""cached_tokens":{cached}"#)), "{answer:?}");

    // The prompt's probabilities want all of it computed.
    let mut scored = greedy(STORY, 20);
    scored.parameters.as_mut().expect("set").decoder_input_details = Some(true);
    let scored = details(&client, scored).await;
    assert_eq!((scored.cached_tokens, &scored.tokens), (0, &first.tokens));

    let metrics = metrics(&server).await;
    assert_eq!(metrics["peregrine_cached_tokens_total"], u64::from(3 * cached));
    assert_eq!(metrics["peregrine_prompt_tokens_total"], u64::from(5 * first.prompt_tokens));
    assert_eq!((metrics["tgi_request_count"], metrics["tgi_request_success"]), (5, 5));
    assert_eq!(metrics["peregrine_kv_blocks_available"], metrics["peregrine_kv_blocks"], "all is given back");
    server.stop().await;
}

/// What those scale and route by who cannot divide: Kubernetes' gateways for inference.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_use_of_the_kv_cache_is_told_as_a_ratio() {
    let server = Server::ready(["--kv-tokens", "2000"]).await;
    let text = server.get("/metrics").await.body;
    assert!(text.contains("\nperegrine_kv_cache_usage_ratio 0.0\n"), "{text}");
    let (stream, _) = begun(&server.client().await, 1000).await;
    let text = server.get("/metrics").await.body;
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the series").parse().expect("a number")
    };
    let used = 1.0 - value("peregrine_kv_blocks_available") / value("peregrine_kv_blocks");
    assert!(used > 0.25, "1,000 of 2,000 tokens are promised: {used}");
    assert!((value("peregrine_kv_cache_usage_ratio") - used).abs() < 1e-9, "{text}");
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_is_shared_where_that_is_not_wanted() {
    let server = Server::ready(["--no-prefix-cache", "--no-step-ahead"]).await;
    let client = server.client().await;
    let first = details(&client, greedy(STORY, 20)).await;
    let second = details(&client, greedy(STORY, 20)).await;
    assert_eq!(first, second);
    assert_eq!(second.cached_tokens, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_sequences_of_best_of_share_their_prompt() {
    let server = Server::ready(["--max-concurrent-requests", "2"]).await;
    let client = server.client().await;
    let parameters = pb::Parameters {
        best_of: Some(2),
        do_sample: Some(true),
        temperature: Some(1.3),
        max_new_tokens: Some(12),
        decoder_input_details: Some(true),
        ignore_eos: Some(true),
        ..Default::default()
    };
    let prompt = STORY.repeat(4);
    let best = details(&client, request(&prompt, parameters)).await;
    let other = &best.best_of_sequences[0];
    assert_eq!((best.prefill.len() as u32, &best.prefill), (best.prompt_tokens, &other.prefill));
    assert_ne!(ids(&best.tokens), ids(&other.tokens));
    let metrics = metrics(&server).await;
    let shared = u64::from((best.prompt_tokens - 1) / 16 * 16);
    assert_eq!(metrics["peregrine_cached_tokens_total"], shared, "the prompt is computed once");
    // Each goes on as its seed says, whether it shares a prompt or not.
    for (seed, tokens) in [(best.seed, &best.tokens), (other.seed, &other.tokens)] {
        let parameters = pb::Parameters {
            do_sample: Some(true),
            temperature: Some(1.3),
            max_new_tokens: Some(12),
            ignore_eos: Some(true),
            details: Some(true),
            seed,
            ..Default::default()
        };
        assert_eq!(ids(&details(&client, request(&prompt, parameters)).await.tokens), ids(tokens));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_who_stops_reading_holds_nothing_beyond_its_deadline() {
    let server = Server::ready(["--max-concurrent-requests", "1"]).await;
    let (client, other) = (server.client().await, server.client().await);
    let mut request = greedy("Once", 2000);
    // More than fits between a server and a client that does not read.
    request.parameters.as_mut().expect("set").top_n_tokens = Some(5);
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(4));
    let stream = client.try_stream(request).await.expect("a stream");
    let free = async {
        while let Err(status) = other.try_generate(greedy("a", 1)).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the place is free", free).await;
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_who_stands_still_without_a_deadline_gives_its_place_back() {
    let model = model_dir("tiny-falcon2-11b");
    let model = ["--model", model.to_str().expect("UTF-8")];
    let limits = ["--max-concurrent-requests", "1", "--stalled-stream-timeout", "1"];
    let server = Server::ready(model.into_iter().chain(limits)).await;
    let (client, other) = (Client::narrow(server.grpc).await, server.client().await);
    // It takes much longer than the limit, and its messages are more than the client takes unread.
    let mut stream = client.stream(greedy("Once", 7000)).await;
    let free = async {
        while let Err(status) = other.try_generate(greedy("a", 1)).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the place is free", free).await;
    let status = loop {
        match within("a message", stream.message()).await {
            Ok(message) => assert!(message.is_some(), "the answer cannot be whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("nothing of the stream was read for 1 s"), "{status}");
    server.stop().await;
}
