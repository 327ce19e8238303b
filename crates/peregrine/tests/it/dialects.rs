//! The HTTP dialects on the demo model, and how flags and SageMaker's variables set them.

use crate::support::{HttpAnswer, Program, Server, demo_model, greedy};
use serde_json::{Value, json};

const PROMPT: &str = "Once upon a time";

fn body(answer: &HttpAnswer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_container_is_set_up_by_sagemakers_variables() {
    let model = demo_model();
    let variables = [
        ("HF_MODEL_ID", model.to_str().expect("UTF-8")),
        ("SM_NUM_GPUS", "2"),
        ("MAX_INPUT_LENGTH", "100"),
        ("MAX_TOTAL_TOKENS", "200"),
        ("MAX_CONCURRENT_REQUESTS", "7"),
        ("MAX_BATCH_TOTAL_TOKENS", "512"),
        ("DTYPE", "float16"),
    ];
    let mut server = Server::start_with(&variables, ["--sagemaker"]).await;
    let log = server.says("loaded ").await;
    assert!(log.contains("SM_NUM_GPUS: --tensor-parallel 2"), "{log}");
    assert!(log.contains("DTYPE is set for nothing: weights"), "{log}");
    let info = body(&server.get("/info").await);
    for (key, value) in [
        ("tensor_parallel", 2),
        ("max_input_tokens", 100),
        ("max_total_tokens", 200),
        ("max_concurrent_requests", 7),
        ("max_batch_total_tokens", 512),
    ] {
        assert_eq!(info[key], value, "{info}");
    }
    assert_eq!(server.get("/ping").await.status, 200);

    // All dialects continue alike.
    let expected = server.client().await.generate(greedy(PROMPT, 12)).await.generated_text;
    let tgi = json!({"inputs": PROMPT, "parameters": {"max_new_tokens": 12, "ignore_eos": true}}).to_string();
    for path in ["/", "/invocations", "/endpoints/any/invocations"] {
        assert_eq!(body(&server.post(path, &tgi).await)[0]["generated_text"], *expected, "{path}");
    }
    let prompt = json!({"prompt": PROMPT, "max_tokens": 12, "ignore_eos": true, "temperature": 0}).to_string();
    assert_eq!(body(&server.post("/invocations", &prompt).await)["choices"][0]["text"], *expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn variables_that_cannot_be_followed_are_named() {
    for (variable, value, message) in [
        ("QUANTIZE", "gptq", "QUANTIZE is set, and cannot be followed: weights are bfloat16"),
        ("SM_NUM_GPUS", "many", "SM_NUM_GPUS: --tensor-parallel many"),
        ("HF_MODEL_ID", "tiiuae/falcon-7b", "tiiuae/falcon-7b: this revision is not in /nonexistent/hub"),
    ] {
        let arguments = Server::arguments(["--sagemaker"]);
        let said = Program::new(arguments).envs([(variable, value)]).run().await.failure();
        assert!(said.contains(message), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn limits_that_flags_set() {
    let flags =
        ["--max-best-of", "3", "--max-stop-sequences", "1", "--max-top-n-tokens", "0", "--payload-limit", "5000"];
    let server = Server::ready(flags).await;
    let info = body(&server.get("/info").await);
    for (key, value) in
        [("max_best_of", 3), ("max_stop_sequences", 1), ("max_top_n_tokens", 0), ("payload_limit", 5000)]
    {
        assert_eq!(info[key], value, "{info}");
    }
    let refused = async |parameters: Value| {
        let answer = server.post("/generate", &json!({"inputs": "a", "parameters": parameters}).to_string()).await;
        (answer.status, body(&answer)["error"].as_str().unwrap_or_default().to_owned())
    };
    let sampled = json!({"best_of": 3, "do_sample": true, "max_new_tokens": 2});
    assert_eq!(refused(sampled).await, (200, String::new()));
    for (parameters, message) in [
        (json!({"best_of": 4}), "`best_of` must be > 0 and <= 3. Given: 4"),
        (json!({"stop": ["a", "b"]}), "`stop` supports up to 1 stop sequences. Given: 2"),
        (json!({"top_n_tokens": 1}), "`top_n_tokens` must be >= 0 and <= 0. Given: 1"),
    ] {
        assert_eq!(refused(parameters).await, (422, format!("Input validation error: {message}")));
    }
    let large = json!({"inputs": "a".repeat(5000)}).to_string();
    let answer = server.post("/generate", &large).await;
    assert!(answer.status == 413 && answer.body.contains("5000 bytes"), "{answer:?}");
    server.stop().await;
}
