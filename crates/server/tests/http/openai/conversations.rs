//! Conversations that are too long.

use crate::scripted::{Script, tokenizer};
use serde_json::{Value, json};
use server::ChatOverflow;

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}";

fn conversation(turns: usize) -> Value {
    let mut messages = vec![json!({"role": "system", "content": "S"})];
    for turn in 0..turns {
        messages.push(json!({"role": "user", "content": format!("question {turn}")}));
        messages.push(json!({"role": "assistant", "content": format!("answer {turn}")}));
    }
    messages.push(json!({"role": "user", "content": "last"}));
    Value::from(messages)
}

async fn server(overflow: ChatOverflow) -> crate::scripted::Server {
    let mut script = Script::new(&[" yes"]);
    (script.template, script.overflow) = (Some(TEMPLATE), overflow);
    script.serve().await
}

#[tokio::test]
async fn it_is_refused_and_told_by_how_much() {
    let server = server(ChatOverflow::Error).await;
    let answer = server.chat(&json!({"messages": conversation(10), "max_tokens": 4})).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let error = answer.json()["error"].clone();
    assert_eq!((&error["param"], &error["code"]), (&json!("messages"), &json!("context_length_exceeded")));
    let text: String = conversation(10)
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| format!("[{}:{}]", m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
        .collect();
    let tokens = tokenizer().encode(&text).expect("a text").len();
    let expected = format!(
        "This model's maximum context length is 64 tokens: `messages` has {tokens}, and `max_tokens` asks for 4, which \
         is {} too many together",
        tokens + 4 - 64
    );
    assert_eq!(error["message"], expected);
    // One that leaves no room.
    let answer = server.chat(&json!({"messages": conversation(10)})).await.json();
    let message = answer["error"]["message"].as_str().expect("a text");
    assert!(message.contains("maximum context length") && message.ends_with("too many together"), "{message}");
    // More bytes than the tokens could have are not tokenized.
    let long = json!([{"role": "user", "content": "x".repeat(100_000)}]);
    let answer = server.chat(&json!({"messages": long})).await.json();
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    assert!(server.asked().is_empty());
    // The end of it may be enough.
    let answer = server.chat(&json!({"messages": long, "truncate_prompt_tokens": 5})).await;
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 5, "{answer:?}");
}

#[tokio::test]
async fn or_its_oldest_turns_are_left_out() {
    let server = server(ChatOverflow::Cut).await;
    let mut kept = Vec::new();
    for turns in 0..10 {
        let answer = server.chat(&json!({"messages": conversation(turns), "max_tokens": 4})).await;
        assert_eq!(answer.status, 200, "{turns}: {answer:?}");
        let ids = server.asked().remove(0).tokens;
        let prompt = tokenizer().decode(&ids, false);
        assert!(
            ids.len() <= 60 && prompt.starts_with("[system:S][user:") && prompt.ends_with("[user:last]"),
            "{prompt}"
        );
        let first = prompt.matches("question").count();
        assert_eq!(prompt.matches("answer").count(), first, "turns stay whole: {prompt}");
        assert!(
            first == 0 || prompt.contains(&format!("question {}]", turns - first)),
            "the oldest go first: {prompt}"
        );
        kept.push(first);
    }
    let most = *kept.last().expect("some");
    assert!((2..9).contains(&most), "{kept:?}");
    let expected: Vec<_> = (0..10).map(|turns| turns.min(most)).collect();
    assert_eq!(kept, expected, "no more than it takes");

    // The last turn stays, and may be too long by itself.
    let long = json!([{"role": "user", "content": "a"}, {"role": "user", "content": "word ".repeat(80)}]);
    let answer = server.chat(&json!({"messages": long})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
}
