//! The JSON of answers: order and presence of keys, and the answers that a real server gave.

use std::path::Path;
use std::time::Duration;

use api::FinishReason;
use serde_json::{Value, json};
use server::Error;
use server::dialects::tgi::{BestOfSequence, Details, ErrorBody, GenerateResponse, PrefillToken, StreamDetails, Token};

fn token(id: u32, logprob: f32) -> Token {
    Token { id, text: " it".into(), logprob, special: false, model_logprob: -9.0 }
}

fn details() -> Details {
    Details {
        finish_reason: FinishReason::Length,
        generated_tokens: 1,
        seed: None,
        prefill: vec![],
        tokens: vec![token(334, -0.119_628_906)],
        best_of_sequences: None,
        top_tokens: vec![],
        prompt_tokens: 5,
        cached_tokens: 0,
    }
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

#[test]
fn whole_answers() {
    let bare = GenerateResponse { generated_text: " it".into(), details: None };
    assert_eq!(text(&bare), r#"{"generated_text":" it"}"#);

    let plain = GenerateResponse { details: Some(details()), ..bare };
    let expected = r#"{"generated_text":" it","details":{"finish_reason":"length","generated_tokens":1,"seed":null,"prefill":[],"tokens":[{"id":334,"text":" it","logprob":-0.119628906,"special":false}]}}"#;
    assert_eq!(text(&plain), expected);

    let prefill = [(37, None), (38, Some(-7.8125))].map(|(id, logprob)| PrefillToken { id, text: ":".into(), logprob });
    let other = BestOfSequence {
        generated_text: "b".into(),
        finish_reason: FinishReason::StopSequence,
        generated_tokens: 0,
        seed: Some(2),
        prefill: vec![],
        tokens: vec![],
        top_tokens: vec![],
    };
    let full = Details {
        finish_reason: FinishReason::EosToken,
        seed: Some(u64::MAX),
        prefill: prefill.to_vec(),
        tokens: vec![token(1, f32::NAN)],
        best_of_sequences: Some(vec![other]),
        top_tokens: vec![vec![token(1, 0.0)]],
        ..details()
    };
    let expected = concat!(
        r#"{"finish_reason":"eos_token","generated_tokens":1,"seed":18446744073709551615,"#,
        r#""prefill":[{"id":37,"text":":","logprob":null},{"id":38,"text":":","logprob":-7.8125}],"#,
        r#""tokens":[{"id":1,"text":" it","logprob":null,"special":false}],"#,
        r#""best_of_sequences":[{"generated_text":"b","finish_reason":"stop_sequence","generated_tokens":0,"seed":2,"#,
        r#""prefill":[],"tokens":[]}],"top_tokens":[[{"id":1,"text":" it","logprob":0.0,"special":false}]]}"#,
    );
    assert_eq!(text(&full), expected);
}

#[test]
fn details_of_a_stream() {
    let details = StreamDetails {
        finish_reason: FinishReason::Length,
        generated_tokens: 2,
        seed: None,
        input_length: 7,
        cached_tokens: 0,
    };
    assert_eq!(text(&details), r#"{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":7}"#);
}

#[test]
fn errors() {
    let rows = [
        (
            ErrorBody::from(&Error::Generation { reason: "worker 3 died".to_owned() }),
            424,
            r#"{"error":"Request failed during generation: Server error: worker 3 died","error_type":"generation"}"#,
        ),
        (
            ErrorBody::from(&Error::Overloaded { retry_after: Duration::ZERO }),
            429,
            r#"{"error":"Model is overloaded","error_type":"overloaded"}"#,
        ),
        (
            ErrorBody::from(&Error::Incomplete),
            500,
            r#"{"error":"Incomplete generation","error_type":"incomplete_generation"}"#,
        ),
        (ErrorBody::unhealthy(), 503, r#"{"error":"unhealthy","error_type":"healthcheck"}"#),
    ];
    for (body, status, expected) in rows {
        assert_eq!((body.kind.status(), text(&body).as_str()), (status, expected));
    }
    for reason in [FinishReason::Length, FinishReason::EosToken, FinishReason::StopSequence] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
}

/// The snapshots come from clients that sort keys and fill in absent ones as null; what remains must survive the round
/// trip through our types.
#[test]
fn answers_of_a_real_server() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tgi-snapshots");
    let mut count = 0;
    for version in ["v0.9.3", "v3.3.7"] {
        for name in ["test_flash_falcon.json", "test_flash_falcon_all_params.json", "test_flash_falcon_load.json"] {
            let snapshot: Value =
                serde_json::from_slice(&std::fs::read(dir.join(version).join(name)).unwrap()).unwrap();
            let answers = snapshot.as_array().cloned().unwrap_or_else(|| vec![snapshot.clone()]);
            for mut expected in answers {
                let ours: GenerateResponse = serde_json::from_value(expected.clone()).unwrap();
                for absent in ["best_of_sequences", "top_tokens"] {
                    let details = expected["details"].as_object_mut().unwrap();
                    assert!(details.remove(absent).is_none_or(|value| value.is_null()), "{version}/{name}: {absent}");
                }
                // Numbers are compared as f32: the snapshots print them as such.
                let ours: Value = serde_json::from_str(&text(&ours)).unwrap();
                assert_eq!(rounded(ours), rounded(expected), "{version}/{name}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 12);
}

fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => json!(number.as_f64().unwrap() as f32),
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, field)| (key, rounded(field))).collect(),
        other => other,
    }
}
