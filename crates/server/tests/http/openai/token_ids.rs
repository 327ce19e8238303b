//! Answers with the ids of tokens, as vLLM's clients ask for them.

use crate::scripted::{Script, tokenizer};
use serde_json::{Value, json};

const TEXT: &str = " 🦅 and é";

/// The lists of numbers that the pieces have under `key`, one behind the other.
fn joined<'a>(pieces: impl Iterator<Item = &'a Value>, key: &str) -> Vec<Value> {
    pieces.flat_map(|piece| piece[key].as_array().cloned().unwrap_or_default()).collect()
}

/// `token_id:N` of each of these ids.
fn spelled(ids: &[Value]) -> Vec<Value> {
    ids.iter().map(|id| json!(format!("token_id:{id}"))).collect()
}

#[tokio::test]
async fn completions_have_them() {
    let server = Script::new(&[TEXT]).serve().await;
    let generated = json!(tokenizer().encode(TEXT).expect("a text"));
    for echo in [false, true] {
        let mut body = json!({
            "prompt": [[5, 6, 7], [8]], "echo": echo, "return_token_ids": true, "return_tokens_as_token_ids": true, "logprobs": 1,
        });
        let whole = server.complete(&body).await.json();
        for (index, prompt) in [json!([5, 6, 7]), json!([8])].iter().enumerate() {
            let choice = &whole["choices"][index];
            assert_eq!(choice["prompt_token_ids"], *prompt, "{choice}");
            let ids = choice["token_ids"].as_array().expect("ids");
            assert!(ids.starts_with(generated.as_array().expect("ids")), "with the end of text behind: {choice}");
            let of_prompt = if echo { prompt.as_array().expect("ids").as_slice() } else { &[] };
            let shown = [of_prompt, ids].concat();
            assert_eq!(choice["logprobs"]["tokens"], json!(spelled(&shown)), "{choice}");
            let last = choice["logprobs"]["top_logprobs"].as_array().and_then(|all| all.last()).expect("one");
            assert!(last.as_object().expect("an object").keys().all(|key| key.starts_with("token_id:")), "{last}");
        }
        body["stream"] = json!(true);
        let events = server.complete(&body).await.events();
        for choice in whole["choices"].as_array().expect("a list") {
            let pieces = || events.iter().map(|event| &event["choices"][0]).filter(|of| of["index"] == choice["index"]);
            assert_eq!(json!(joined(pieces(), "token_ids")), choice["token_ids"]);
            assert_eq!(pieces().next().expect("a piece")["prompt_token_ids"], choice["prompt_token_ids"]);
            assert!(pieces().skip(1).all(|piece| piece.get("prompt_token_ids").is_none()), "only the first has it");
        }
    }
}

#[tokio::test]
async fn chats_have_them() {
    let server = Script::new(&[TEXT, " yes"]).serve().await;
    let mut body = json!({
        "messages": [{"role": "user", "content": "Hello"}], "n": 2, "return_token_ids": true,
        "logprobs": true, "top_logprobs": 1, "return_tokens_as_token_ids": true,
    });
    let whole = server.chat(&body).await.json();
    assert_eq!(whole["prompt_token_ids"], json!(tokenizer().encode("User: Hello\nFalcon:").expect("a text")));
    for choice in whole["choices"].as_array().expect("a list") {
        let content = choice["logprobs"]["content"].as_array().expect("a list");
        let tokens: Vec<Value> = content.iter().map(|token| token["token"].clone()).collect();
        assert_eq!(tokens, spelled(choice["token_ids"].as_array().expect("ids")), "{choice}");
        assert!(content.iter().all(|token| token["top_logprobs"][0]["token"] == token["token"]), "{choice}");
    }
    body["stream"] = json!(true);
    let events = server.chat(&body).await.events();
    assert_eq!(events[0]["prompt_token_ids"], whole["prompt_token_ids"]);
    assert!(events[1..].iter().all(|event| event.get("prompt_token_ids").is_none()), "only the first has it");
    for choice in whole["choices"].as_array().expect("a list") {
        let pieces = events.iter().map(|event| &event["choices"][0]).filter(|of| of["index"] == choice["index"]);
        assert_eq!(json!(joined(pieces, "token_ids")), choice["token_ids"]);
    }
    body["return_token_ids"] = json!(false);
    let plain = server.chat(&body).await;
    assert!(!plain.body.contains("token_ids"), "{plain:?}");
}
