//! Models to test with.

use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use testkit::goldens::model_dir;

/// The folder of the demo model.
pub fn demo_model() -> PathBuf {
    model_dir("falcon-demo")
}

/// A model of zeros that is large enough for a load to take a while, and a long text a long time, on any machine. Its
/// file takes no space: it is a hole.
pub struct SlowModel(TempDir);

const HIDDEN: usize = 1024;
const LAYERS: usize = 6;
/// So many that a load is still going on when its processes have been looked for, however busy the machine is.
const LAYERS_TO_LOAD: usize = 48;
const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const VOCAB: usize = 1024;

impl SlowModel {
    /// Makes it.
    pub fn new() -> Self {
        Self::of(LAYERS)
    }

    /// Makes one that loads for longer.
    pub fn to_load() -> Self {
        Self::of(LAYERS_TO_LOAD)
    }

    fn of(layers: usize) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let config = json!({
            "model_type": "falcon", "new_decoder_architecture": true, "multi_query": true, "parallel_attn": true,
            "bias": false, "alibi": false, "hidden_size": HIDDEN, "num_hidden_layers": layers, "vocab_size": VOCAB,
            "num_attention_heads": HEADS, "num_kv_heads": KV_HEADS, "eos_token_id": 11, "bos_token_id": 11,
        });
        fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
        fs::copy(model_dir("tiny-falcon-7b").join("tokenizer.json"), dir.path().join("tokenizer.json"))
            .expect("a copy");
        write_zeros(&dir.path().join("model.safetensors"));
        Self(dir)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn write_zeros(path: &Path) {
    let config = weights::read_config(path.parent().expect("a folder")).expect("a config");
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for tensor in model::tensors(&config) {
        let bytes = 2 * tensor.elements();
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [end, end + bytes]});
        header.insert(tensor.id.to_string(), entry);
        end += bytes;
    }
    let header = serde_json::Value::from(header).to_string();
    let mut file = File::create(path).expect("a file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("room");
    file.write_all(header.as_bytes()).expect("room");
    file.set_len((8 + header.len() + end) as u64).expect("room");
}
