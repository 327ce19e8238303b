//! Checkpoints of other spellings: the same answer over real workers, or one sentence that says what to do.

use crate::support::{Program, model_dir};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A copy of the model whose head is not tied and whose rotary base is not the default, under a changed config.
fn falcon2_11b(change: impl FnOnce(&mut Map<String, Value>)) -> TempDir {
    let (from, to) = (model_dir("tiny-falcon2-11b"), TempDir::new().expect("a temporary folder"));
    for file in ["tokenizer.json", "model.safetensors"] {
        fs::copy(from.join(file), to.path().join(file)).expect("a copy");
    }
    let mut config = serde_json::from_slice(&fs::read(from.join("config.json")).expect("a config")).expect("JSON");
    change(&mut config);
    fs::write(to.path().join("config.json"), Value::from(config).to_string()).expect("a file");
    to
}

fn generate(model: &Path, ranks: &str) -> Program {
    let model = model.to_str().expect("UTF-8");
    let flags = ["--max-new-tokens", "20", "--tensor-parallel", ranks];
    Program::new(["generate", "Once upon a time", "--model", model].iter().chain(&flags))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn spellings_of_the_same_model_give_the_same_text() {
    let expected = generate(&model_dir("tiny-falcon2-11b"), "1").run().await.success();
    let spellings: [fn(&mut Map<String, Value>); 2] = [
        // As transformers 5 writes it.
        |config| {
            let theta = config.remove("rope_theta").expect("a base");
            config.insert("rope_parameters".to_owned(), json!({"rope_theta": theta, "rope_type": "default"}));
        },
        // Tied by default, which the stored head overrules.
        |config| drop(config.remove("tie_word_embeddings")),
    ];
    for spelling in spellings {
        let model = falcon2_11b(spelling);
        for ranks in ["1", "3"] {
            assert_eq!(generate(model.path(), ranks).run().await.success(), expected, "{ranks} ranks");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_read_is_said_once_whatever_the_number_of_ranks() {
    let cases = [
        ("pytorch_model.bin", "x", "pytorch_model.bin"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("adapter_config.json", "{}", "an adapter lies beside the model"),
    ];
    for (file, content, expected) in cases {
        let model = falcon2_11b(|_| ());
        if file == "pytorch_model.bin" {
            fs::remove_file(model.path().join("model.safetensors")).expect("it is there");
        }
        fs::write(model.path().join(file), content).expect("a file");
        let said = generate(model.path(), "4").run().await.failure();
        assert_eq!(said.matches(expected).count(), 1, "{said}");
        let plan = ["plan", "--model", model.path().to_str().expect("UTF-8")];
        let planned = Program::new(plan).run().await.failure();
        assert_eq!(planned.matches(expected).count(), 1, "{planned}");
    }
}
