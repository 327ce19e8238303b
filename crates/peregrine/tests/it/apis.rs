//! gRPC and HTTP, as a client sees them.

use crate::support::{Client, HttpAnswer, Server, greedy, ids, next_message, request, text_of, within};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt;
use wire::generation as pb;

const PROMPT: &str = "Once upon a time";

fn sampled(seed: Option<u64>) -> pb::GenerateRequest {
    let parameters = pb::Parameters {
        temperature: Some(1.5),
        seed,
        max_new_tokens: Some(24),
        ignore_eos: Some(true),
        details: Some(true),
        ..Default::default()
    };
    request(PROMPT, parameters)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn generate_continues_a_prompt() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let client = server.client().await;
    let prompt = client.tokenize(PROMPT).await;
    let prompt_ids: Vec<_> = prompt.iter().map(|token| token.id).collect();

    let answer = client.generate(greedy(PROMPT, 40)).await;
    let details = answer.details.expect("asked for");
    assert_eq!((&*details.finish_reason, details.generated_tokens), ("length", 40));
    assert_eq!((details.seed, details.prompt_tokens), (None, prompt.len() as u32));
    assert!(details.prefill.is_empty() && details.top_tokens.is_empty() && details.best_of_sequences.is_empty());
    assert_eq!((details.tokens.len(), text_of(&details.tokens)), (40, answer.generated_text.clone()));
    assert!(details.tokens.iter().all(|t| t.logprob.is_some_and(|p| p <= 0.0) && t.model_logprob == t.logprob));

    // By default: 20 tokens, no details.
    let default = client.generate(pb::GenerateRequest { inputs: PROMPT.to_owned(), ..Default::default() }).await;
    assert_eq!((&*default.generated_text, default.details), (&*text_of(&details.tokens[..20]), None));

    // The prompt as token ids is the same prompt.
    let mut by_ids = greedy("", 40);
    by_ids.input_ids = prompt_ids.clone();
    by_ids.parameters.as_mut().unwrap().return_full_text = Some(true);
    let full = client.generate(by_ids).await;
    assert_eq!(full.generated_text, format!("{PROMPT}{}", answer.generated_text));

    // A stop string ends the text, and stays in it.
    let stop: String = answer.generated_text.chars().skip(30).take(5).collect();
    let mut stopped = greedy(PROMPT, 40);
    stopped.parameters.as_mut().unwrap().stop = vec!["never in a story".to_owned(), stop.clone()];
    let stopped = client.generate(stopped).await;
    let end = answer.generated_text.find(&stop).expect("cut from it") + stop.len();
    assert_eq!(stopped.generated_text, answer.generated_text[..end]);
    assert_eq!(stopped.details.expect("asked for").finish_reason, "stop_sequence");

    prompt_details(&client, &prompt).await;
    server.stop().await;
}

/// `decoder_input_details` and `top_n_tokens`.
async fn prompt_details(client: &Client, prompt: &[pb::TokenizedToken]) {
    let parameters = pb::Parameters {
        decoder_input_details: Some(true),
        top_n_tokens: Some(3),
        max_new_tokens: Some(2),
        ..Default::default()
    };
    let details = client.generate(request(PROMPT, parameters)).await.details.expect("implied");
    let found: Vec<_> = details.prefill.iter().map(|token| (token.id, &*token.text)).collect();
    let expected: Vec<_> = prompt.iter().map(|token| (token.id, &*token.text)).collect();
    assert_eq!(found, expected);
    let known: Vec<_> = details.prefill.iter().map(|token| token.logprob.is_some()).collect();
    assert!(!known[0] && known[1..].iter().all(|&known| known), "{known:?}");
    for (token, top) in details.tokens.iter().zip(&details.top_tokens) {
        assert_eq!((top.tokens.len(), top.tokens[0].id), (3, token.id), "a greedy choice is the most probable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_seed_gives_the_same_text_at_every_degree() {
    let mut answers = Vec::new();
    for world in ["1", "2", "3"] {
        let server = Server::ready(["--tensor-parallel", world]).await;
        let client = server.client().await;
        let details = client.generate(sampled(Some(7))).await.details.expect("asked for");
        assert_eq!(details.seed, Some(7));
        // Not alone this time.
        let (again, other) = tokio::join!(client.generate(sampled(Some(7))), client.generate(sampled(Some(8))));
        assert_eq!(ids(&again.details.expect("asked for").tokens), ids(&details.tokens), "under load");
        assert_ne!(ids(&other.details.expect("asked for").tokens), ids(&details.tokens), "another seed");
        let random = client.generate(sampled(None)).await.details.expect("asked for");
        let repeated = client.generate(sampled(random.seed)).await.details.expect("asked for");
        assert_eq!(ids(&random.tokens), ids(&repeated.tokens), "the seed that was chosen");
        answers.push(ids(&details.tokens));
        server.stop().await;
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_that_cannot_be_run_are_refused() {
    let server = Server::ready(["--max-total-tokens", "64"]).await;
    let client = server.client().await;
    let with = |change: &dyn Fn(&mut pb::Parameters)| {
        let mut parameters = pb::Parameters::default();
        change(&mut parameters);
        request(PROMPT, parameters)
    };
    let both = pb::GenerateRequest { input_ids: vec![1], ..with(&|_| ()) };
    let unknown = pb::GenerateRequest { input_ids: vec![1, 999_999], ..Default::default() };
    let long = pb::GenerateRequest { inputs: PROMPT.repeat(30), ..Default::default() };
    let cases = [
        (both, "input_ids", "must not both be set"),
        (unknown, "input_ids", "Given: 999999 at index 1"),
        (long, "inputs", "`inputs` tokens + `max_new_tokens` must be <= 64. Given: "),
        (pb::GenerateRequest::default(), "inputs", "`inputs` cannot be empty"),
        (with(&|p| p.max_new_tokens = Some(0)), "max_new_tokens", "`max_new_tokens` must be strictly positive"),
        (with(&|p| p.max_new_tokens = Some(61)), "inputs", "Given: 4 `inputs` tokens and 61 `max_new_tokens`"),
        (with(&|p| p.temperature = Some(0.0)), "temperature", "`temperature` must be strictly positive"),
        (with(&|p| p.top_p = Some(1.0)), "top_p", "`top_p` must be > 0.0 and < 1.0"),
        (with(&|p| p.top_k = Some(0)), "top_k", "`top_k` must be strictly positive"),
        (with(&|p| p.stop = vec!["a".to_owned(); 5]), "stop", "`stop` supports up to 4 stop sequences. Given: 5"),
        (with(&|p| p.best_of = Some(2)), "best_of", "you must use sampling when `best_of` is > 1"),
        (with(&|p| p.top_n_tokens = Some(6)), "top_n_tokens", "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        (with(&|p| p.truncate = Some(64)), "truncate", "`truncate` must be strictly positive and less than 63"),
    ];
    for (request, field, message) in cases {
        let stream = client.try_stream(request.clone()).await.map(|_| ()).expect_err(message);
        let status = client.try_generate(request).await.expect_err(message);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with("Input validation error: "), "{status}");
        assert!(status.message().contains(message), "{status} lacks {message:?}");
        let violations = status.get_details_bad_request().expect("a BadRequest").field_violations;
        assert_eq!(violations.iter().map(|violation| &*violation.field).collect::<Vec<_>>(), [field]);
        assert_eq!(stream.code(), Code::InvalidArgument, "{stream}");
    }
    let details = with(&|p| p.decoder_input_details = Some(true));
    let status = client.try_stream(details).await.map(|_| ()).expect_err("there is no place for them");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_is_the_same_answer_in_pieces() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let client = server.client().await;
    for details in [true, false] {
        let mut request = greedy(PROMPT, 60);
        request.parameters.as_mut().unwrap().top_n_tokens = Some(2);
        let whole = client.generate(request.clone()).await;
        request.parameters.as_mut().unwrap().details = Some(details);
        let mut stream = client.stream(request).await;
        let (mut tokens, mut last) = (Vec::new(), None);
        while let Some(message) = within("a message", stream.message()).await.expect("no error") {
            assert!(last.is_none(), "a message after the last");
            assert!(!message.tokens.is_empty(), "a message without a token");
            assert_eq!(message.top_tokens.len(), message.tokens.len());
            tokens.extend(message.tokens);
            match message.generated_text {
                Some(text) => last = Some((text, message.details)),
                None => assert_eq!(message.details, None),
            }
        }
        let (text, found) = last.expect("a last message");
        let expected = whole.details.expect("asked for");
        assert_eq!((&text, &tokens), (&whole.generated_text, &expected.tokens));
        assert_eq!(text_of(&tokens), text);
        let shorter = pb::Details { tokens: Vec::new(), top_tokens: Vec::new(), ..expected };
        assert_eq!(found, details.then_some(shorter));
    }
    server.stop().await;
}

/// How much of a prompt was known is the one thing that others may change.
fn without_hits(mut answer: pb::GenerateResponse) -> pb::GenerateResponse {
    answer.details.as_mut().expect("asked for").cached_tokens = 0;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_does_not_notice_others() {
    let requests: Vec<_> = (0..10)
        .map(|index| match index % 3 {
            0 => greedy(&PROMPT[..4 + index as usize], 20 + 5 * index),
            1 => sampled(Some(u64::from(index))),
            _ => greedy(&PROMPT.repeat(index as usize), 10),
        })
        .collect();
    let mut expected = Vec::new();
    // Prompts are cut into pieces by the second server, and wait for each other.
    let narrow = ["--max-batch-tokens", "7", "--kv-tokens", "192", "--max-concurrent-requests", "10"];
    for arguments in [&[][..], &narrow] {
        let server = Server::ready(["--tensor-parallel", "2"].iter().chain(arguments)).await;
        let client = server.client().await;
        if expected.is_empty() {
            for request in &requests {
                expected.push(without_hits(client.generate(request.clone()).await));
            }
        }
        let calls = requests.iter().map(|request| {
            let (client, request) = (client.clone(), request.clone());
            tokio::spawn(async move { client.generate(request).await })
        });
        for (index, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
            let answer = without_hits(call.await.expect("an answer"));
            assert_eq!(answer, expected[index], "request {index}, {arguments:?}");
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_is_full_says_so() {
    let server = Server::ready(["--max-concurrent-requests", "1"]).await;
    let client = server.client().await;
    let mut stream = client.stream(greedy(PROMPT, 2000)).await;
    next_message(&mut stream).await;
    let status = client.try_generate(greedy(PROMPT, 1)).await.expect_err("there is no room");
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "Model is overloaded"));
    let retry = status.get_details_retry_info().expect("a RetryInfo").retry_delay.expect("a time");
    assert_eq!(retry.as_secs(), 1, "nothing is known yet of how long requests take");
    let answer = server.post("/generate", r#"{"inputs": "Once"}"#).await;
    // This is the second that wants the place.
    assert!(answer.head.contains("\r\nretry-after: 1\r\n"), "{answer:?}");
    assert_eq!((answer.status, &*answer.body), (429, r#"{"error":"Model is overloaded","error_type":"overloaded"}"#));
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_server_describes_itself() {
    let arguments = ["--tensor-parallel", "2", "--kv-tokens", "1000", "--max-input-length", "100"];
    let server = Server::ready(arguments.into_iter().chain(["--backend", "reference"])).await;
    let client = server.client().await;
    let info = client.generation().get_info(pb::GetInfoRequest {}).await.expect("an answer").into_inner();
    let expected = pb::GetInfoResponse {
        model_id: "falcon-demo".to_owned(),
        model_dtype: "bfloat16".to_owned(),
        backend: "reference".to_owned(),
        tensor_parallel: 2,
        max_input_length: 100,
        max_total_tokens: 1008,
        kv_tokens_total: 1008,
        max_concurrent_requests: 128,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        chat_stop: Vec::new(),
    };
    assert_eq!(info, expected, "1,000 tokens are 63 blocks of 16");

    let text = "Ça va? 😀";
    let tokens = client.tokenize(text).await;
    let chars: Vec<char> = text.chars().collect();
    assert_eq!((tokens[0].start, tokens.last().map(|token| token.stop)), (0, Some(chars.len() as u32)));
    for token in tokens.iter().filter(|token| token.text.is_ascii()) {
        let part: String = chars[token.start as usize..token.stop as usize].iter().collect();
        assert_eq!(part, token.text);
    }

    for service in ["", "peregrine.v1.Generation", "liveness"] {
        let check = client.health().check(HealthCheckRequest { service: service.to_owned() }).await;
        let found = check.expect("an answer").into_inner().status();
        assert_eq!(found, ServingStatus::Serving, "{service:?}");
    }
    let unknown = client.health().check(HealthCheckRequest { service: "other".to_owned() }).await;
    assert_eq!(unknown.expect_err("there is none").code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tokens_go_back_to_their_text() {
    let server = Server::ready::<&str>([]).await;
    let client = server.client().await;
    let ids: Vec<u32> = client.tokenize("Once upon a time").await.iter().map(|token| token.id).collect();
    let detokenize = |ids: Vec<u32>, skip_special_tokens| {
        let mut stub = client.generation();
        async move {
            let answer = stub.detokenize(pb::DetokenizeRequest { ids, skip_special_tokens });
            within("a text", answer).await.map(|answer| answer.into_inner().text)
        }
    };
    assert_eq!(detokenize(ids.clone(), false).await.expect("a text"), "Once upon a time");
    let special = [ids, vec![11]].concat();
    assert_eq!(detokenize(special.clone(), true).await.expect("a text"), "Once upon a time");
    assert_eq!(detokenize(special, false).await.expect("a text"), "Once upon a time<|endoftext|>");
    let beyond = detokenize(vec![5, 3072], false).await.expect_err("beyond the vocabulary");
    let field = &beyond.get_details_bad_request().expect("details").field_violations[0].field;
    assert_eq!((beyond.code(), &**field), (Code::InvalidArgument, "input_ids"));
    server.stop().await;
}

/// Answers are compressed where the request was, and a message may not be larger than others because it was compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn compression_is_the_callers_choice() {
    let server = Server::ready::<&str>([]).await;
    let client = server.client().await;
    let plain = client.generation().accept_compressed(CompressionEncoding::Gzip);
    let gzip = plain.clone().send_compressed(CompressionEncoding::Gzip);
    let mut answers = Vec::new();
    for (mut stub, encoding) in [(plain.clone(), None), (gzip.clone(), Some("gzip"))] {
        let answer = within("an answer", stub.generate(greedy(PROMPT, 5))).await.expect("an answer");
        assert_eq!(answer.metadata().get("grpc-encoding").map(|value| value.as_bytes()), encoding.map(str::as_bytes));
        answers.push(answer.into_inner());
    }
    assert_eq!(answers[0], answers[1]);
    // It is small on its way, and too large behind it.
    let status = within("an answer", gzip.clone().generate(greedy(&"a".repeat(5 << 20), 5))).await;
    assert_eq!(status.expect_err("too large").code(), Code::ResourceExhausted);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn http_has_the_shape_of_tgi() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let health = server.get("/health").await;
    assert_eq!((health.status, &*health.body), (200, ""));

    let grpc = server.client().await.generate(greedy(PROMPT, 5)).await;
    // Keys that are unknown are ignored, as are those of other servers.
    let plain = r#"{"inputs": "Once upon a time", "no": 1,
        "parameters": {"max_new_tokens": 5, "ignore_eos": true, "num_beams": 3}}"#;
    let plain = server.post("/generate", plain).await;
    assert_eq!((plain.status, keys(&plain.body)), (200, vec!["generated_text".to_owned()]));
    assert!(plain.head.contains("content-type: application/json"), "{plain:?}");
    assert_eq!(field(&plain, "generated_text"), grpc.generated_text);

    let details = r#"{"inputs": "Once upon a time", "parameters": {"max_new_tokens": 2, "details": true,
        "decoder_input_details": true, "seed": null, "temperature": null, "ignore_eos": true}}"#;
    let details = server.post("/generate", details).await;
    assert_eq!(details.status, 200, "{details:?}");
    check_details(&details.body);

    for (body, status, message) in [
        (r#"{"inputs": "#, 400, "Failed to parse the request body as JSON"),
        (r#"{"inputs": 5}"#, 422, "Failed to deserialize the JSON body into the target type: inputs: invalid type"),
        (r#"{"parameters": {}}"#, 422, "missing field `inputs`"),
        (r#"{"inputs": "a", "parameters": {"max_new_tokens": -1}}"#, 422, "parameters.max_new_tokens"),
        (r#"{"inputs": "a", "parameters": {"stop": null}}"#, 422, "parameters.stop"),
        (r#"{"inputs": ""}"#, 422, "Input validation error: `inputs` cannot be empty"),
        (r#"{"inputs": "a", "parameters": {"top_p": 1.0}}"#, 422, "`top_p` must be > 0.0 and < 1.0"),
    ] {
        let answer = server.post("/generate", body).await;
        assert_eq!((answer.status, keys(&answer.body)), (status, vec!["error".to_owned(), "error_type".to_owned()]));
        assert!(field(&answer, "error").contains(message), "{answer:?} lacks {message:?}");
        assert_eq!(field(&answer, "error_type"), "validation");
    }
    let huge = format!(r#"{{"inputs": "{}"}}"#, "a".repeat(3 << 20));
    for (answer, status) in
        [(server.post("/generate", &huge).await, 413), (server.post_untyped("/generate").await, 415)]
    {
        assert_eq!((answer.status, keys(&answer.body)), (status, vec!["error".to_owned(), "error_type".to_owned()]));
    }
    for (path, status, message) in [("/nowhere", 404, "there is no /nowhere"), ("/generate", 405, "no GET /generate")] {
        let answer = server.get(path).await;
        assert!(answer.status == status && field(&answer, "error").contains(message), "{answer:?}");
        // Clients choose their exception by it.
        assert_eq!(field(&answer, "error_type"), "not_found");
    }
    let metrics = server.get("/metrics").await.body;
    // Those above that are no requests are among them.
    assert!(metrics.contains("tgi_request_failure{err=\"validation\"} 9\n"), "{metrics}");
    let status =
        Client::connect(server.http).await.try_generate(greedy(PROMPT, 5)).await.expect_err("it is not gRPC's");
    assert!(status.code() == Code::Unimplemented && status.message().contains("address of HTTP"), "{status}");
    server.stop().await;
}

/// The keys of details, their order, and the kinds of their values.
pub fn check_details(body: &str) {
    assert_eq!(keys(body), ["generated_text", "details"]);
    let raw: RawDetails = serde_json::from_str(body).expect("JSON");
    assert_eq!(raw.details.0, ["finish_reason", "generated_tokens", "seed", "prefill", "tokens"]);
    let value: Value = serde_json::from_str(body).expect("JSON");
    let details = &value["details"];
    assert_eq!((&details["finish_reason"], &details["generated_tokens"]), (&"length".into(), &2.into()));
    assert!(details["seed"].is_null() && details["prefill"][0]["logprob"].is_null(), "{body}");
    assert!(details["prefill"][1]["logprob"].as_f64().is_some_and(|logprob| logprob < 0.0), "{body}");
    assert_eq!(details["tokens"].as_array().map(Vec::len), Some(2));
    let first = &details["tokens"][0];
    assert!(first["id"].is_u64() && first["text"].is_string() && first["logprob"].is_f64(), "{body}");
    assert!(body.contains(r#","prefill":[{"id":"#) && body.contains(r#","logprob":null},{"id":"#), "{body}");
    assert_eq!(body.matches(r#","special":false}"#).count(), 2, "{body}");
}

#[derive(Deserialize)]
struct RawDetails {
    details: Keys,
}

/// The keys of an object, in order.
pub fn keys(json: &str) -> Vec<String> {
    serde_json::from_str::<Keys>(json).unwrap_or_else(|error| panic!("{json}: {error}")).0
}

struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

fn field(answer: &HttpAnswer, key: &str) -> String {
    let value: Value = serde_json::from_str(&answer.body).expect("JSON");
    value[key].as_str().unwrap_or_else(|| panic!("{answer:?} has no {key}")).to_owned()
}
