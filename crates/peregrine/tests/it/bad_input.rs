//! Models and flags that cannot work: an error that says what is wrong, soon, and nothing left behind.

use crate::support::{Program, demo_model, model_dir};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A copy of a tiny model, to be broken.
struct Copy(TempDir);

impl Copy {
    fn new() -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(model_dir("tiny-falcon-7b").join(file), dir.path().join(file)).expect("a copy");
        }
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn weights(&self) -> PathBuf {
        self.file("model.safetensors")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.file(name), content).expect("a file");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).expect("it is there");
    }

    /// An index instead of the one checkpoint, which would go before it.
    fn write_index(&self, index: &str) {
        self.remove("model.safetensors");
        self.write("model.safetensors.index.json", index);
    }

    /// Changes the checkpoint's header; the tensors' bytes stay where they are.
    fn change_header(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let bytes = fs::read(self.weights()).expect("a checkpoint");
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let mut header = serde_json::from_slice(&bytes[8..end]).expect("a header");
        change(&mut header);
        let header = Value::from(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        self.write("model.safetensors", [&length[..], header.as_bytes(), &bytes[end..]].concat());
    }
}

/// Both `serve` and `generate`, on this model with these flags, fail with an error that has all `parts`.
async fn check(model: &Path, flags: &[&str], parts: &[&str]) {
    let model = model.to_str().expect("UTF-8");
    let serve = ["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--model", model];
    let generate = ["generate", "Once", "--model", model];
    for command in [&serve[..], &generate] {
        let ended = Program::new(command.iter().chain(flags)).run().await;
        let stderr = ended.failure();
        let error = stderr.split("error: ").last().expect("a last part");
        for part in parts {
            assert!(error.contains(part), "{command:?} {flags:?}: {stderr:?} lacks {part:?}");
        }
    }
}

type Break = fn(&Copy);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn folders_that_hold_no_model() {
    let cases: [(Break, &[&str]); 9] = [
        (grow, &["--model ", "a rank has ", " GB of memory and needs ", "a machine with more memory"]),
        (|m| m.remove("config.json"), &["/config.json", "No such file"]),
        (|m| m.write("config.json", "{\"model_type\": "), &["/config.json", "not valid JSON"]),
        (|m| m.write("config.json", "{\"hidden_size\": 64}"), &["/config.json", "field `model_type` is missing"]),
        (|m| m.write("config.json", "{\"model_type\": \"llama\"}"), &["/config.json", "`model_type`", "llama"]),
        (|m| m.remove("tokenizer.json"), &["/tokenizer.json", "there is no such file"]),
        (|m| m.write("tokenizer.json", "{}"), &["/tokenizer.json"]),
        (|m| m.remove("model.safetensors"), &["no checkpoint", "model.safetensors"]),
        (|m| m.write_index("[]"), &["model.safetensors.index.json", "weight_map"]),
    ];
    for (break_it, parts) in cases {
        let model = Copy::new();
        break_it(&model);
        check(model.0.path(), &["--tensor-parallel", "2"], parts).await;
    }
    check(Path::new("no/such/folder"), &[], &["--model no/such/folder", "no such folder"]).await;
}

const QKV: &str = "transformer.h.1.self_attention.query_key_value.weight";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn checkpoints_that_are_damaged() {
    let cases: [(Break, &[&str]); 7] = [
        (cut_short, &["model.safetensors", "cut short"]),
        (
            |m| m.write("model.safetensors", b"no header at all"),
            &["model.safetensors", "not a valid safetensors header"],
        ),
        (index_of_missing_file, &["index.json", "tensor `lm_head.weight`", "`other.safetensors`", "no such file"]),
        (|m| m.change_header(rename), &[QKV, "is missing"]),
        (|m| m.change_header(transpose), &["model.safetensors", QKV, "[448, 320]", "[320, 448]"]),
        (|m| m.change_header(retype), &["model.safetensors", QKV, "BF16, F16 or F32", "I16"]),
        (
            |m| m.write("config.json", with_sizes(m, ["320", "5", "1"])),
            &["model.safetensors", "unknown tensor", "h.1."],
        ),
    ];
    for (break_it, parts) in cases {
        let model = Copy::new();
        break_it(&model);
        check(model.0.path(), &["--tensor-parallel", "2"], parts).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn weights_that_are_no_numbers_give_no_answer() {
    let model = Copy::new();
    let mut bytes = fs::read(model.weights()).expect("a checkpoint");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    bytes[8 + header..].fill(0xff);
    model.write("model.safetensors", bytes);
    let model = model.0.path().to_str().expect("UTF-8");
    let stderr = Program::new(["generate", "Once", "--model", model]).run().await.failure();
    assert!(stderr.contains("the model's logits are not numbers"), "{stderr}");
}

/// A model of some terabytes, whose checkpoint is a file that takes no room.
fn grow(model: &Copy) {
    model.write("config.json", with_sizes(model, ["32000", "500", "100"]));
    let config = weights::read_config(model.0.path()).expect("a config");
    let mut bytes = 0;
    let entry = |spec: model::TensorSpec| {
        let start = bytes;
        bytes += 2 * spec.elements() as u64;
        (spec.id.to_string(), json!({"dtype": "BF16", "shape": spec.shape, "data_offsets": [start, bytes]}))
    };
    let header =
        Value::from(model::tensors(&config).into_iter().map(entry).collect::<serde_json::Map<_, _>>()).to_string();
    model.write("model.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
    let file = fs::OpenOptions::new().write(true).open(model.weights()).expect("a checkpoint");
    file.set_len(8 + header.len() as u64 + bytes).expect("a sparse file");
}

fn cut_short(model: &Copy) {
    let bytes = fs::read(model.weights()).expect("a checkpoint");
    model.write("model.safetensors", &bytes[..bytes.len() - 1000]);
}

fn index_of_missing_file(model: &Copy) {
    model.write_index(&json!({"weight_map": {"lm_head.weight": "other.safetensors"}}).to_string());
}

fn rename(header: &mut serde_json::Map<String, Value>) {
    let tensor = header.remove(QKV).expect("it is there");
    header.insert("transformer.h.1.self_attention.qkv.weight".to_owned(), tensor);
}

fn transpose(header: &mut serde_json::Map<String, Value>) {
    header[QKV]["shape"].as_array_mut().expect("a shape").reverse();
}

fn retype(header: &mut serde_json::Map<String, Value>) {
    header[QKV]["dtype"] = "I16".into();
}

/// A config with another hidden size, and other numbers of heads and layers, than the checkpoint's.
fn with_sizes(model: &Copy, sizes: [&str; 3]) -> String {
    let config = fs::read_to_string(model.file("config.json")).expect("a config");
    let fields = ["hidden_size\": 320", "num_attention_heads\": 5", "num_hidden_layers\": 2"];
    fields.iter().zip(sizes).fold(config, |config, (field, size)| {
        let (name, _) = field.rsplit_once(' ').expect("a name and a value");
        assert!(config.contains(field), "{field} in {config}");
        config.replace(field, &format!("{name} {size}"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn flags_that_cannot_be() {
    let cases: [(&[&str], &[&str]); 17] = [
        (&["--tensor-parallel", "0"], &["'0' for '--tensor-parallel <N>'", "1..=64"]),
        (&["--tensor-parallel", "65"], &["'65' for '--tensor-parallel <N>'"]),
        (&["--tensor-parallel", "two"], &["--tensor-parallel"]),
        (&["--kv-tokens", "0"], &["'0' for '--kv-tokens <N>'"]),
        (&["--kv-tokens", "64", "--max-total-tokens", "100"], &["--max-total-tokens is 100", "room for 64 only"]),
        (&["--max-total-tokens", "2049"], &["--max-total-tokens is 2049, expected 2 to 2048"]),
        (&["--max-input-length", "2048"], &["--max-input-length is 2048, expected 1 to 2047"]),
        (&["--max-batch-tokens", "0"], &["'0' for '--max-batch-tokens <N>'"]),
        (&["--max-concurrent-requests", "0"], &["'0' for '--max-concurrent-requests <N>'"]),
        (&["--threads-per-rank", "0"], &["'0' for '--threads-per-rank <N>'"]),
        (&["--threads-per-rank", "100000"], &["'100000' for '--threads-per-rank <N>'"]),
        (&["--max-batch-tokens", "5000000000"], &["'5000000000' for '--max-batch-tokens <N>'"]),
        (&["--collective-timeout", "0"], &["'0' for '--collective-timeout <SECONDS>'"]),
        (&["--isa", "sse9"], &["--isa <ISA>", "\"sse9\" is no instruction set", "plain, avx2, avx512 and amx"]),
        (&["--backend", "cuda"], &["--backend cpu", "cuda"]),
        (&["--backend", "tpu"], &["--backend", "tpu"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
    ];
    for (flags, parts) in cases {
        check(&demo_model(), flags, parts).await;
    }
    let lacking = backend_cpu::Isa::ALL.into_iter().find(|isa| !isa.supported());
    if let Some(isa) = lacking {
        check(&demo_model(), &["--isa", &isa.to_string()], &["--isa <ISA>", &format!("does not have {isa}")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_level_that_is_none() {
    for (level, wrong) in
        [("warm", "\"warm\" is no level"), ("info,wran", "\"wran\" is no level"), ("a=b=c", "level filter")]
    {
        let stderr = Program::new(["serve"]).envs([("PEREGRINE_LOG", level)]).run().await.failure();
        assert!(stderr.contains("PEREGRINE_LOG: ") && stderr.contains(wrong), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn addresses_that_cannot_be() {
    let listening = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listening.local_addr().expect("an address").to_string();
    for (flag, other) in [("--grpc-addr", "--http-addr"), ("--http-addr", "--grpc-addr")] {
        let ended = Program::new(["serve", flag, &taken, other, "127.0.0.1:0"]).run().await;
        let stderr = ended.failure();
        assert!(stderr.contains(&format!("{flag} {taken}: cannot listen there")), "{stderr}");
    }
    // A port that no test is given.
    let stderr = Program::new(["generate", "Once", "--server", "127.0.0.1:1"]).run().await.failure();
    assert!(stderr.contains("--server 127.0.0.1:1: cannot connect"), "{stderr}");
    for flag in [["--model", "x"], ["--isa", "plain"], ["--cuda-graphs", "off"], ["--tensor-parallel", "1"]] {
        let arguments = ["generate", "Once", "--server", "127.0.0.1:1"].into_iter().chain(flag);
        let stderr = Program::new(arguments).run().await.failure();
        assert!(stderr.contains("'--server <ADDR>' cannot be used with") && stderr.contains(flag[0]), "{stderr}");
    }
    let stderr = Program::new(["serve", "--grpc-addr", "nowhere"]).run().await.failure();
    assert!(stderr.contains("--grpc-addr nowhere: cannot listen there"), "{stderr}");
    let stderr = Program::new(["worker"]).run().await.failure();
    assert!(stderr.contains("a worker is started by"), "{stderr}");
}
