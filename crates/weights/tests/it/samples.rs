//! Model directories for the tests.

use model::{FalconConfig, tensors};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use std::collections::BTreeMap;
use tempfile::TempDir;

/// The smallest model with every kind of cut: two layers, biases, four query heads on two KV heads.
pub const CONFIG: &str = r#"{
    "model_type": "falcon", "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 10,
    "new_decoder_architecture": true, "num_kv_heads": 2, "bias": true
}"#;

/// Tensors of a file: dtype, shape and bytes under their names.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub fn config() -> FalconConfig {
    FalconConfig::from_json(CONFIG.as_bytes()).unwrap()
}

/// All tensors of [`CONFIG`], of `dtype`, with random bytes.
pub fn random_tensors(dtype: Dtype, rng: &mut fastrand::Rng) -> Tensors {
    let random = |spec: model::TensorSpec| {
        let mut bytes = vec![0; spec.elements() * dtype.bitsize() / 8];
        rng.fill(&mut bytes);
        (spec.id.to_string(), (dtype, spec.shape, bytes))
    };
    tensors(&config()).into_iter().map(random).collect()
}

/// A directory with `config.json` and these other files.
pub fn directory(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("config.json", CONFIG.as_bytes().to_vec())].iter().chain(files) {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

pub fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

/// A generator whose seed is in the output of a failing test.
pub fn seeded() -> fastrand::Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed)
}
