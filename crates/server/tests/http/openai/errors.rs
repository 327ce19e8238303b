//! Every refusal, with the field that it names and its code.

use crate::scripted::{PERMITS, Script};
use serde_json::{Value, json};
use std::time::Duration;

/// A body with more fields than `{}` has.
fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

#[tokio::test]
async fn fields_of_both_kinds() {
    let server = Script::new(&[" yes"]).serve().await;
    let rows = [
        (json!({"temperature": -1}), "temperature", "invalid_value", "`temperature` must be at least 0"),
        (json!({"top_p": 0}), "top_p", "invalid_value", "`top_p` must be > 0.0 and <= 1.0"),
        (json!({"top_p": 1.5}), "top_p", "invalid_value", "`top_p` must be > 0.0 and <= 1.0"),
        (json!({"top_k": -2}), "top_k", "invalid_value", "`top_k` must be at least 1, or 0 or -1 for all tokens"),
        (json!({"min_p": 2}), "min_p", "invalid_value", "`min_p` must be >= 0.0 and <= 1.0"),
        (json!({"presence_penalty": 3}), "presence_penalty", "invalid_value", "`presence_penalty` must be >= -2.0"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "invalid_value", "`frequency_penalty` must be >= -2.0"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "invalid_value", "strictly positive"),
        (json!({"logit_bias": {"a": 1}}), "logit_bias", "invalid_value", "must be token ids. Given: \"a\""),
        (json!({"logit_bias": {"a": 1, "7": 2, "b": 3}}), "logit_bias", "invalid_value", "Given: \"a\", \"b\""),
        (json!({"logit_bias": {"5": 101}}), "logit_bias", "invalid_value", "Token 5 is not"),
        (json!({"logit_bias": {"999999": 1}}), "logit_bias", "invalid_value", "has the token 999999"),
        (json!({"n": 0}), "n", "integer_below_min_value", "`n` must be at least 1. Given: 0"),
        (json!({"n": 129}), "n", "integer_above_max_value", "`n` must be at most 128. Given: 129"),
        (json!({"max_tokens": 0}), "max_tokens", "integer_below_min_value", "must be at least 1. Given: 0"),
        (json!({"max_tokens": 100}), "", "context_length_exceeded", "This model's maximum context length is 64"),
        (json!({"min_tokens": 5, "max_tokens": 4}), "min_tokens", "integer_above_max_value", "at most 4. Given: 5"),
        (json!({"stop": vec!["a"; 65]}), "stop", "array_above_max_length", "`stop` must be at most 64. Given: 65"),
        (json!({"stop": "a".repeat(4097)}), "stop", "string_above_max_length", "must have at most 4096 bytes"),
        (json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens", "invalid_value", "from 1 to 63. Given: 0"),
        (json!({"truncate_prompt_tokens": -2}), "truncate_prompt_tokens", "invalid_value", "from 1 to 63"),
        (json!({"response_format": {"type": "json_object"}}), "response_format", "unsupported_parameter", "yet"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type", "invalid_value", "and is `xml`"),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema.schema",
            "missing_required_parameter",
            "is missing",
        ),
        (json!({"response_format": {}}), "response_format.type", "missing_required_parameter", "missing field `type`"),
        (json!({"guided_json": {"type": "object"}}), "guided_json", "unsupported_parameter", "is not supported"),
        (json!({"modalities": ["text", "audio"]}), "modalities", "unsupported_parameter", "text alone"),
        (json!({"truncation_side": "right"}), "truncation_side", "unsupported_parameter", "which is `left`"),
        (json!({"suffix": "end"}), "suffix", "unsupported_parameter", "fills no gaps"),
        (json!({"temperature": "hot"}), "temperature", "invalid_type", "expected f32"),
        (json!({"stop": [1]}), "stop", "invalid_type", "expected a string or a list of strings"),
        (json!({"seed": 1.5}), "seed", "invalid_type", "expected an integer of 64 bits"),
        (json!({"stream_options": {"include_usage": 1}}), "stream_options.include_usage", "invalid_type", "a boolean"),
    ];
    let completion = json!({"prompt": "x"});
    let chat = json!({"messages": [{"role": "user", "content": "x"}]});
    for (more, param, code, message) in rows {
        for (path, body, prompt) in
            [("/v1/completions", &completion, "prompt"), ("/v1/chat/completions", &chat, "messages")]
        {
            for stream in [false, true] {
                let body = with(with(body.clone(), &more), &json!({"stream": stream}));
                let answer = server.post(path, &body.to_string()).await;
                assert_eq!(answer.status, 400, "{path} {more}: {answer:?}");
                let answer = answer.json();
                let error = &answer["error"];
                let param = if param.is_empty() { prompt } else { param };
                assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{path}: {answer}");
                assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{message}: {answer}");
                assert_eq!(
                    (&error["type"], &answer["error_type"]),
                    (&json!("invalid_request_error"), &json!("validation"))
                );
            }
        }
    }
    assert!(server.asked().is_empty(), "none of them has run");
    let refused = server.get("/metrics").await.body;
    assert!(refused.contains("tgi_request_failure{err=\"validation\"} 132\n"), "each is counted: {refused}");
}

#[tokio::test]
async fn fields_of_completions() {
    let server = Script::new(&[" yes"]).serve().await;
    let rows = [
        (json!({}), "prompt", "missing_required_parameter", "missing field `prompt`"),
        (json!({"prompt": null}), "prompt", "invalid_type", "expected a string, a list of strings"),
        (json!({"prompt": ""}), "prompt", "invalid_value", "`prompt` cannot be empty"),
        (json!({"prompt": []}), "prompt", "invalid_value", "`prompt` cannot be empty"),
        (json!({"prompt": ["a", ""]}), "prompt", "invalid_value", "`prompt` cannot be empty"),
        (json!({"prompt": [1, 99999]}), "prompt", "invalid_value", "Given: 99999 at index 1"),
        (json!({"prompt": vec!["a"; PERMITS + 1]}), "prompt", "integer_above_max_value", "at most 8"),
        (
            json!({"prompt": "word ".repeat(70)}),
            "prompt",
            "context_length_exceeded",
            "This model's maximum context length is",
        ),
        (json!({"prompt": "a", "stream_options": {}}), "stream_options", "invalid_value", "needs `stream` to be true"),
        (json!({"prompt": "a", "logprobs": 6}), "logprobs", "integer_above_max_value", "at most 5. Given: 6"),
        (json!({"prompt": "a", "best_of": 1, "n": 2}), "best_of", "integer_below_min_value", "at least 2. Given: 1"),
        (json!({"prompt": "a", "best_of": 2, "stream": true}), "best_of", "invalid_value", "does not go with `stream`"),
    ];
    for (body, param, code, message) in rows {
        let answer = server.complete(&body).await;
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status, &error["param"], &error["code"]),
            (400, &json!(param), &json!(code)),
            "{body}: {error}"
        );
        assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{body}: {error}");
    }
    for broken in ["", "{", "[]", "{\"prompt\": \"a\"} x"] {
        let answer = server.post("/v1/completions", broken).await;
        assert_eq!((answer.status, &answer.json()["error_type"]), (400, &json!("validation")), "{broken}");
    }
    let answer = server.post("/v1/completions", &" ".repeat(3 << 20)).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (413, &json!("invalid_request_error")));
}

#[tokio::test]
async fn messages_of_chats() {
    let say =
        |content: Value| json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": content}]});
    let text = json!({"type": "text", "text": "a"});
    let rows = [
        (json!({}), "messages", "missing_required_parameter", "missing field `messages`"),
        (json!({"messages": []}), "messages", "invalid_value", "`messages` is empty"),
        (json!({"messages": "hello"}), "messages", "invalid_type", "expected a sequence"),
        (json!({"messages": ["hello"]}), "messages[0]", "invalid_value", "must be an object"),
        (say(json!(5)), "messages[1].content", "invalid_value", "must be a string, a list of parts or null"),
        (
            say(json!([text, {"type": "image_url", "image_url": {"url": "x"}}])),
            "messages[1].content[1].type",
            "invalid_value",
            "has type `image_url`",
        ),
        (
            say(json!([{"type": "input_audio", "input_audio": {}}])),
            "messages[1].content[0].type",
            "invalid_value",
            "`input_audio`",
        ),
        (say(json!([{"type": "text"}])), "messages[1].content[0].text", "invalid_value", "must be a string"),
    ];
    refuses(&rows).await;
}

#[tokio::test]
async fn options_of_chats() {
    let with = |more: Value| with(json!({"messages": [{"role": "user", "content": "b"}]}), &more);
    let rows = [
        (with(json!({"top_logprobs": 2})), "top_logprobs", "invalid_value", "needs `logprobs`"),
        (with(json!({"logprobs": true, "top_logprobs": 21})), "top_logprobs", "integer_above_max_value", "at most 20"),
        (with(json!({"stream_options": {"include_usage": true}})), "stream_options", "invalid_value", "needs `stream`"),
        (with(json!({"logprobs": 2})), "logprobs", "invalid_type", "expected a boolean"),
        (with(json!({"tool_choice": "required"})), "tool_choice", "unsupported_parameter", "none or auto"),
        (with(json!({"tool_choice": {"type": "function"}})), "tool_choice", "unsupported_parameter", "none or auto"),
        (with(json!({"echo": true})), "echo", "unsupported_parameter", "alone"),
        (with(json!({"audio": {"voice": "x"}})), "audio", "unsupported_parameter", "text alone"),
        (with(json!({"chat_template": "x"})), "chat_template", "invalid_value", "named `x`"),
        (
            with(json!({"chat_template_kwargs": {"messages": 1}})),
            "chat_template_kwargs.messages",
            "invalid_value",
            "cannot be an argument",
        ),
        (
            with(json!({"add_generation_prompt": true, "continue_final_message": true})),
            "continue_final_message",
            "invalid_value",
            "cannot both",
        ),
        (
            with(json!({"continue_final_message": true, "messages": [{"role": "user", "content": null}]})),
            "continue_final_message",
            "invalid_value",
            "`continue_final_message`",
        ),
    ];
    refuses(&rows).await;
}

/// A chat, and what its refusal names: the field, the code and some of the message.
type Row = (Value, &'static str, &'static str, &'static str);

async fn refuses(rows: &[Row]) {
    let server = Script::new(&[" yes"]).serve().await;
    for (body, param, code, message) in rows {
        let answer = server.chat(body).await;
        let error = answer.json()["error"].clone();
        let expected = (400, &json!(param), &json!(code));
        assert_eq!((answer.status, &error["param"], &error["code"]), expected, "{body}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{body}: {error}");
    }
}

#[tokio::test]
async fn what_a_template_refuses_is_told() {
    let mut script = Script::new(&[" yes"]);
    script.template = Some("{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}a");
    let server = script.serve().await;
    let answer = server.chat(&json!({"messages": [{"role": "system", "content": "S"}]})).await;
    let error = json!({
        "message": "the chat template refuses the conversation: no system here", "type": "invalid_request_error",
        "param": "messages", "code": "invalid_value",
    });
    assert_eq!((answer.status, &answer.json()["error"]), (400, &error));
}

#[tokio::test]
async fn a_server_that_is_full_says_when_to_come_back() {
    let mut script = Script::new(&[" yes"]);
    script.pause = Duration::from_millis(200);
    let server = script.serve().await;
    let body = json!({"prompt": "x", "n": PERMITS, "max_tokens": 5, "ignore_eos": true});
    let full = async {
        // The first has all there is by the time that it is asked of the ranks.
        while server.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.complete(&json!({"prompt": "x"})).await
    };
    let (first, refused) = tokio::join!(server.complete(&body), full);
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(refused.status, 429, "{refused:?}");
    let expected = json!({
        "error": {"message": "Model is overloaded", "type": "rate_limit_error", "param": null, "code": "rate_limit_exceeded"},
        "error_type": "overloaded",
    });
    assert_eq!(refused.json(), expected);
    let seconds: u64 = refused.header("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
    let milliseconds: u64 = refused.header("retry-after-ms").and_then(|wait| wait.parse().ok()).expect("milliseconds");
    assert!((1..=120).contains(&seconds) && milliseconds.div_ceil(1000) == seconds, "{refused:?}");
}
