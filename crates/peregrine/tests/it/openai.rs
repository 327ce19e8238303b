//! OpenAI's routes over real workers: the same tokens as in the other dialects.

use crate::support::{HttpAnswer, Server, greedy, request, text_of};
use serde_json::{Value, json};
use wire::generation as pb;

const PROMPT: &str = "Once upon a time";

fn parse(answer: &HttpAnswer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

async fn complete(server: &Server, body: &Value) -> Value {
    parse(&server.post("/v1/completions", &body.to_string()).await)
}

async fn chat(server: &Server, body: &Value) -> Value {
    parse(&server.post("/v1/chat/completions", &body.to_string()).await)
}

/// The events of a stream, in the order of their arrival, without the last, which says that it ended well.
fn events(answer: &HttpAnswer) -> Vec<Value> {
    assert!(answer.head.contains("content-type: text/event-stream"), "{answer:?}");
    // Sizes of chunks stand on lines of their own; events have none that is not theirs.
    let lines = answer.body.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut data: Vec<&str> = lines.collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{answer:?}");
    data.into_iter().map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

/// The numbers of a list, as they were before JSON.
fn floats(list: &Value) -> Vec<f32> {
    list.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tokens_are_the_same_in_every_dialect() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let client = server.client().await;
    let drawn = pb::Parameters {
        temperature: Some(1.5),
        seed: Some(7),
        max_new_tokens: Some(24),
        ignore_eos: Some(true),
        details: Some(true),
        ..Default::default()
    };
    let cases = [
        (greedy(PROMPT, 24), json!({"temperature": 0}), json!({})),
        (request(PROMPT, drawn), json!({"temperature": 1.5, "seed": 7}), json!({"temperature": 1.5, "seed": 7})),
    ];
    for (over_grpc, mut openai, mut tgi) in cases {
        let grpc = client.generate(over_grpc).await;
        let tokens = grpc.details.expect("asked for").tokens;
        for (key, value) in [("details", json!(true)), ("max_new_tokens", json!(24)), ("ignore_eos", json!(true))] {
            tgi[key] = value;
        }
        let body = json!({"inputs": PROMPT, "parameters": tgi});
        let tgi = parse(&server.post("/generate", &body.to_string()).await);
        for (key, value) in
            [("prompt", json!(PROMPT)), ("max_tokens", json!(24)), ("ignore_eos", json!(true)), ("logprobs", json!(2))]
        {
            openai[key] = value;
        }
        let openai = complete(&server, &openai).await;
        let choice = &openai["choices"][0];
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(grpc.generated_text), &json!("length")));
        assert_eq!(choice["text"], tgi["generated_text"]);
        let expected: Vec<f32> = tokens.iter().map(|token| token.model_logprob.expect("it is there")).collect();
        assert_eq!(floats(&choice["logprobs"]["token_logprobs"]), expected);
        let warped: Vec<f32> = tokens.iter().map(|token| token.logprob.expect("it is there")).collect();
        let of_tgi = tgi["details"]["tokens"].as_array().expect("a list").iter();
        assert_eq!(of_tgi.map(|token| token["logprob"].as_f64().expect("one") as f32).collect::<Vec<_>>(), warped);
        let texts: String =
            choice["logprobs"]["tokens"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!(texts, text_of(&tokens));
        let prompt = client.tokenize(PROMPT).await.len();
        let usage = json!({"prompt_tokens": prompt, "completion_tokens": 24, "total_tokens": prompt + 24});
        for (key, count) in usage.as_object().expect("an object") {
            assert_eq!(openai["usage"][key], *count, "{key}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_are_whole_answers_in_pieces() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let mut body = json!({
        "prompt": [PROMPT, "The fox"], "n": 3, "seed": 5, "max_tokens": 20, "ignore_eos": true, "logprobs": 1, "stop": "the",
    });
    let whole = complete(&server, &body).await;
    (body["stream"], body["stream_options"]) = (json!(true), json!({"include_usage": true}));
    let mut pieces = events(&server.post("/v1/completions", &body.to_string()).await);
    let usage = pieces.pop().expect("the usage");
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &whole["usage"]["total_tokens"]));
    for (index, choice) in whole["choices"].as_array().expect("a list").iter().enumerate() {
        let of_choice = |event: &&Value| event["choices"][0]["index"] == index;
        let text: String = pieces.iter().filter(of_choice).filter_map(|e| e["choices"][0]["text"].as_str()).collect();
        assert_eq!(choice["text"], text);
        assert!(!text.contains("the"), "the stop string is never shown: {text}");
    }
    let order = pieces.iter().map(|event| event["choices"][0]["index"].as_u64());
    assert!(!order.is_sorted(), "continuations come side by side");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_chat_is_the_completion_of_its_prompt() {
    let server = Server::ready(["--max-total-tokens", "96", "--chat-overflow", "cut"]).await;
    let messages =
        json!([{"role": "system", "content": "Tell a story."}, {"role": "user", "content": "Once upon a time"}]);
    let chat_body = json!({"messages": messages, "temperature": 0, "max_tokens": 30});
    let answer = chat(&server, &chat_body).await;
    let prompt = "System: Tell a story.\nUser: Once upon a time\nFalcon:";
    let completion =
        complete(&server, &json!({"prompt": prompt, "temperature": 0, "max_tokens": 30, "stop": "\nUser:"})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], completion["choices"][0]["text"]);
    assert_eq!(answer["choices"][0]["finish_reason"], completion["choices"][0]["finish_reason"]);
    assert_eq!(answer["usage"]["prompt_tokens"], completion["usage"]["prompt_tokens"]);

    // A conversation that is too long loses what is oldest.
    let mut long = vec![messages[0].clone()];
    long.extend((0..40).map(|_| json!({"role": "user", "content": "Who is there?"})));
    long.push(messages[1].clone());
    let answer = chat(&server, &json!({"messages": long, "temperature": 0, "max_tokens": 30})).await;
    let tokens = answer["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert!((40..=66).contains(&tokens), "{answer}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_chat_template_may_come_from_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.jinja");
    std::fs::write(&file, "{% for m in messages %}{{ m.content }}{% endfor %}").expect("it can be written");
    let arguments = ["--chat-template".as_ref(), file.as_os_str()];
    let server = Server::ready(arguments).await;
    let answer =
        chat(&server, &json!({"messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": 12}))
            .await;
    let completion = complete(&server, &json!({"prompt": PROMPT, "temperature": 0, "max_tokens": 12})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], completion["choices"][0]["text"]);
    let models = parse(&server.get("/v1/models").await);
    assert_eq!(models["data"][0]["id"], "falcon-demo");
    let root = models["data"][0]["root"].as_str().expect("a path");
    assert!(std::path::Path::new(root).join("tokenizer.json").is_file(), "{root}");
    server.stop().await;
}
