//! Chats: their prompts, and what comes of them.

use crate::scripted::{Script, tokenizer};
use serde_json::{Value, json};

fn user(content: &Value) -> Value {
    json!({"role": "user", "content": content})
}

#[tokio::test]
async fn a_chat_to_the_byte() {
    let server = Script::new(&[" Hi!\nUser: And"]).serve().await;
    let answer = server.chat(&json!({"model": "tgi", "messages": [user(&json!("Hello"))], "temperature": 0})).await;
    let tokens = tokenizer().encode("User: Hello\nFalcon:").expect("a text").len();
    let expected = concat!(
        r#"{"id":"chatcmpl-test","object":"chat.completion","created":0,"model":"scripted","#,
        r#""system_fingerprint":"fp_0.1.0-script-tp1","choices":[{"index":0,"message":{"role":"assistant","content":" Hi!","#,
        r#""refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":P,"completion_tokens":5,"#,
        r#""total_tokens":T,"prompt_tokens_details":{"cached_tokens":0}}}"#,
    );
    let expected = expected.replace(":P,", &format!(":{tokens},")).replace(":T,", &format!(":{},", tokens + 5));
    assert_eq!((answer.status, answer.timeless()), (200, expected), "the template's own stop string ends it");
}

/// A template that shows all that it is given.
const SHOWS_ALL: &str = "{% for m in messages %}[{{ m.role }}{% if m.name %}/{{ m.name }}{% endif %}:{{ m.content }}\
    {% for c in m.tool_calls or [] %}<{{ c.function.name }}>{% endfor %}]{% endfor %}\
    {% for t in tools or [] %}({{ t.function.name }}){% endfor %}{% for d in documents or [] %}{{ d.title }}{% endfor %}\
    {{ mood }}{% if add_generation_prompt %}A:{% endif %}";

#[tokio::test]
async fn all_of_a_conversation_is_shown_to_the_template() {
    let mut script = Script::new(&[" yes"]);
    script.template = Some(SHOWS_ALL);
    let server = script.serve().await;
    let call = json!({"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}});
    let messages = json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "U"}, {"type": "text", "text": "V"}], "name": "kim"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "content": "T", "tool_call_id": "1", "name": null},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {}}}]);
    let prompt = async |more: Value| {
        let mut body = json!({"messages": messages, "tools": tools});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer = server.chat(&body).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        tokenizer().decode(&server.asked().remove(0).tokens, false)
    };
    let all = "[system:S][user/kim:UV][assistant:<look>][tool:T](look)";
    assert_eq!(prompt(json!({})).await, format!("{all}A:"));
    assert_eq!(prompt(json!({"add_generation_prompt": false, "tool_choice": "auto"})).await, all);
    let more = json!({"documents": [{"title": "D"}], "chat_template_kwargs": {"mood": "glad"}, "tool_choice": "none"});
    assert_eq!(prompt(more).await, format!("{all}DgladA:"));
    assert_eq!(prompt(json!({"tools": [], "documents": null})).await, format!("{}A:", all.trim_end_matches("(look)")));
    assert_eq!(
        prompt(json!({"continue_final_message": true})).await,
        "[system:S][user/kim:UV][assistant:<look>][tool:T"
    );
}

#[tokio::test]
async fn log_probabilities_have_bytes() {
    let server = Script::new(&[" é."]).serve().await;
    let mut body = json!({"messages": [user(&json!("x"))], "temperature": 0, "logprobs": true});
    let logprobs = server.chat(&body).await.json()["choices"][0]["logprobs"].clone();
    let ids = tokenizer().encode(" é.").expect("a text");
    let bytes: Vec<Vec<u8>> = ids.iter().map(|&id| tokenizer().bytes(id).to_vec()).collect();
    let found = logprobs["content"].as_array().expect("a list");
    assert_eq!(found.len(), ids.len() + 1, "{logprobs}");
    for (index, (token, bytes)) in found.iter().zip(&bytes).enumerate() {
        assert_eq!((&token["bytes"], &token["logprob"]), (&json!(bytes), &json!(-0.25 * (index + 1) as f64)));
        assert_eq!(token["top_logprobs"], json!([]));
    }
    assert_eq!((&found[ids.len()]["token"], &logprobs["refusal"]), (&json!("<|endoftext|>"), &Value::Null));

    body["top_logprobs"] = json!(20);
    let logprobs = server.chat(&body).await.json()["choices"][0]["logprobs"]["content"][0].clone();
    let top = logprobs["top_logprobs"].as_array().expect("a list");
    assert_eq!((top.len(), &top[0]["token"], &top[0]["logprob"]), (20, &logprobs["token"], &logprobs["logprob"]));
    assert_eq!(top[19]["logprob"], -19.25);
}

#[tokio::test]
async fn a_chat_may_be_as_long_as_there_is_room() {
    let server = Script::new(&[" a b c d"]).serve().await;
    let mut body = json!({"messages": [user(&json!("Hello"))], "ignore_eos": true});
    let usage = server.chat(&body).await.json()["usage"].clone();
    assert_eq!(usage["total_tokens"], 64, "{usage}");
    body["max_tokens"] = json!(7);
    assert_eq!(server.chat(&body).await.json()["usage"]["completion_tokens"], 7);
    body["max_completion_tokens"] = json!(5);
    let answer = server.chat(&body).await.json();
    assert_eq!(
        (&answer["usage"]["completion_tokens"], &answer["choices"][0]["finish_reason"]),
        (&json!(5), &json!("length"))
    );
    for null in
        ["n", "logprobs", "tools", "stop", "max_tokens", "tool_choice", "response_format", "top_logprobs", "audio"]
    {
        body[null] = Value::Null;
    }
    (body["response_format"], body["modalities"]) = (json!({"type": "text"}), json!(["text"]));
    assert_eq!(server.chat(&body).await.status, 200);
}
