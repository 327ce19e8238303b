//! Every rule of validation, as HTTP and gRPC tell of it.

use crate::support::Server;
use api::Priority;
use serde_json::{Value, json};
use server::dialects::grpc::convert::request_to_pb;
use server::dialects::tgi::{GenerateRequest, Inputs, Parameters};
use tonic::Code;
use tonic_types::StatusExt;

/// Inputs, parameters, the field that is at fault, and what is said about it. The server's limits are 20 tokens of input and
/// 30 in all.
fn rows() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen";
    vec![
        ("a", json!({"best_of": 3, "do_sample": true}), "best_of", "`best_of` must be > 0 and <= 2. Given: 3"),
        ("a", json!({"best_of": 2}), "best_of", "you must use sampling when `best_of` is > 1"),
        ("a", json!({"best_of": 2, "top_k": 5, "seed": 1}), "seed", "`seed` must not be set when `best_of` > 1"),
        ("a", json!({"temperature": 0.0}), "temperature", "`temperature` must be strictly positive"),
        ("a", json!({"temperature": -0.5}), "temperature", "`temperature` must be strictly positive"),
        ("a", json!({"repetition_penalty": 0}), "repetition_penalty", "`repetition_penalty` must be strictly positive"),
        ("a", json!({"top_p": 1.0}), "top_p", "`top_p` must be > 0.0 and < 1.0"),
        ("a", json!({"top_p": 0.0}), "top_p", "`top_p` must be > 0.0 and < 1.0"),
        ("a", json!({"typical_p": 1.5}), "typical_p", "`typical_p` must be > 0.0 and < 1.0"),
        ("a", json!({"top_k": 0}), "top_k", "`top_k` must be strictly positive"),
        ("a", json!({"max_new_tokens": 0}), "max_new_tokens", "`max_new_tokens` must be strictly positive"),
        ("a", json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", "`stop` supports up to 4 stop sequences. Given: 5"),
        ("a", json!({"top_n_tokens": 6}), "top_n_tokens", "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ("a", json!({"truncate": 0}), "truncate", "`truncate` must be strictly positive and less than 20. Given: 0"),
        ("a", json!({"truncate": 21}), "truncate", "`truncate` must be strictly positive and less than 20. Given: 21"),
        ("", json!({}), "inputs", "`inputs` cannot be empty"),
        (
            "a",
            json!({"max_new_tokens": 30}),
            "inputs",
            "`inputs` tokens + `max_new_tokens` must be <= 30. Given: 1 `inputs` tokens and 30 `max_new_tokens`",
        ),
        (words, json!({"max_new_tokens": 1}), "inputs", "`inputs` must have less than 20 tokens. Given: "),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_rule_has_its_message_and_status_over_both_faces() {
    let server = Server::ready(["--max-input-length", "20", "--max-total-tokens", "30"]).await;
    let client = server.client().await;
    for (inputs, parameters, field, message) in rows() {
        let request = json!({"inputs": inputs, "parameters": parameters});
        let answer = server.post("/generate", &request.to_string()).await;
        let body: Value = serde_json::from_str(&answer.body).expect("an error is JSON, too");
        let error = body["error"].as_str().expect("a text");
        assert_eq!((answer.status, body["error_type"].as_str()), (422, Some("validation")), "{request}");
        assert!(error.starts_with(&format!("Input validation error: {message}")), "{request}: {error}");

        let typed: GenerateRequest = serde_json::from_value(request.clone()).expect("well formed");
        let status = client.try_generate(request_to_pb(typed)).await.expect_err("invalid");
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, error), "{request}");
        let violations = status.get_details_bad_request().expect("details").field_violations;
        assert_eq!(violations.len(), 1, "{request}");
        let described = (&*violations[0].field, violations[0].description.starts_with(message));
        assert_eq!(described, (field, true), "{request}");
    }
    // JSON cannot say what no f32 can be.
    let answer = server.post("/generate", r#"{"inputs": "a", "parameters": {"temperature": 1e39}}"#).await;
    assert!(answer.status == 400 && answer.body.contains("parameters.temperature: number out of range"), "{answer:?}");
    only_over_grpc(&server).await;
    server.stop().await;
}

/// Token ids, streams, and grammars.
async fn only_over_grpc(server: &Server) {
    let client = server.client().await;
    let by_ids = |ids: &[u32]| {
        let typed = GenerateRequest {
            inputs: Inputs::Ids(ids.to_vec()),
            parameters: Parameters::default(),
            stream: false,
            priority: Priority::Normal,
        };
        request_to_pb(typed)
    };
    let status = client.try_generate(by_ids(&[5, 3072, 7])).await.expect_err("beyond the vocabulary");
    assert_eq!(status.message(), "Input validation error: `input_ids` must be < 3072. Given: 3072 at index 1");
    let mut both = by_ids(&[5]);
    both.inputs = "a".to_owned();
    let status = client.try_generate(both).await.expect_err("two prompts");
    assert_eq!(status.message(), "Input validation error: `inputs` and `input_ids` must not both be set");

    let mut request = by_ids(&[5]);
    request.parameters.get_or_insert_default().best_of = Some(2);
    let status = client.try_stream(request).await.expect_err("a stream has one sequence");
    assert_eq!(status.message(), "Input validation error: `best_of` != 1 is not supported when streaming tokens");
    let mut request = by_ids(&[5]);
    request.parameters.get_or_insert_default().decoder_input_details = Some(true);
    let status = client.try_stream(request).await.expect_err("a stream has no place for it");
    let expected = "`decoder_input_details` == true is not supported when streaming tokens";
    assert_eq!(status.message(), format!("Input validation error: {expected}"));
    let mut request = by_ids(&[5]);
    let regex = wire::generation::parameters::Grammar::Regex("a+".to_owned());
    request.parameters.get_or_insert_default().grammar = Some(regex);
    let status = client.try_generate(request).await.expect_err("grammars come later");
    assert_eq!(status.message(), "Input validation error: `grammar` is not supported yet");
}
