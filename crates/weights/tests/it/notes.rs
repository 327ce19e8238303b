//! What a checkpoint says about itself, and heads that are stored beside the table they are tied to.

use crate::samples::{self, Tensors, directory, safetensors, seeded};
use half::{bf16, f16};
use model::{Partition, TensorId};
use safetensors::Dtype;
use weights::{Checkpoint, Note};

const SINGLE: &str = "model.safetensors";
const TABLE: &str = "transformer.word_embeddings.weight";
const HEAD: &str = "lm_head.weight";

fn whole(dtype: Dtype) -> Tensors {
    samples::random_tensors(dtype, &mut seeded())
}

fn open(tensors: &Tensors) -> (tempfile::TempDir, Checkpoint) {
    let dir = directory(&[(SINGLE, safetensors(tensors))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

#[test]
fn an_ordinary_checkpoint_has_no_notes() {
    assert_eq!(open(&whole(Dtype::BF16)).1.notes(), []);
}

#[test]
fn matrices_that_are_rounded_are_counted_by_their_type() {
    let mut tensors = whole(Dtype::F16);
    assert_eq!(open(&tensors).1.notes(), [Note::Rounded { matrices: 9, from: Dtype::F16 }]);
    // Norms keep their precision, so they are no news.
    tensors = whole(Dtype::BF16);
    let norm = whole(Dtype::F32).remove_entry("transformer.ln_f.weight").unwrap();
    tensors.insert(norm.0, norm.1);
    assert_eq!(open(&tensors).1.notes(), []);
    let table = whole(Dtype::F32).remove_entry(TABLE).unwrap();
    tensors.insert(table.0, table.1);
    let checkpoint = open(&tensors).1;
    assert_eq!(checkpoint.notes(), [Note::Rounded { matrices: 1, from: Dtype::F32 }]);
    assert!(checkpoint.notes()[0].to_string().starts_with("1 matrix stored as F32: rounded to BF16"));
}

#[test]
fn what_is_stored_or_said_without_being_used_is_told() {
    let mut tensors = whole(Dtype::BF16);
    tensors.insert("transformer.h.0.self_attention.rotary_emb.inv_freq".to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
    let config = samples::CONFIG.replacen('{', r#"{"quantization_config": {"quant_method": "gptq"}, "banana": 1,"#, 1);
    let dir = directory(&[(SINGLE, safetensors(&tensors)), ("config.json", config.into_bytes())]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let expected = [
        Note::NotQuantized { method: "gptq".to_owned() },
        Note::Buffers { count: 1 },
        Note::UnknownKeys { keys: vec!["banana".to_owned()] },
    ];
    assert_eq!(checkpoint.notes(), expected);
    assert!(!checkpoint.notes().iter().any(Note::is_warning));
}

#[test]
fn a_stored_head_is_used_where_it_differs_and_only_there() {
    let (bf16s, mut tensors) = (|x: f32| bf16::from_f32(x).to_le_bytes(), whole(Dtype::BF16));
    let values: Vec<f32> = (0..160).map(|i| i as f32 / 8.0).collect();
    let stored = |element: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|x| element(*x)).collect::<Vec<u8>>();
    let shape = vec![10, 16];
    tensors.insert(TABLE.to_owned(), (Dtype::BF16, shape.clone(), stored(&|x| bf16s(x).to_vec())));
    let mut off = stored(&|x| bf16s(x).to_vec());
    *off.last_mut().unwrap() ^= 1;
    let cases = [
        (Dtype::BF16, stored(&|x| bf16s(x).to_vec()), true),
        (Dtype::F32, stored(&|x| x.to_le_bytes().to_vec()), true),
        (Dtype::F16, stored(&|x| f16::from_f32(x).to_le_bytes().to_vec()), true),
        (Dtype::BF16, off, false),
        (Dtype::F32, stored(&|x| (x + 1.0).to_le_bytes().to_vec()), false),
    ];
    for (dtype, bytes, is_equal) in cases {
        tensors.insert(HEAD.to_owned(), (dtype, shape.clone(), bytes));
        let (dir, checkpoint) = open(&tensors);
        assert_eq!(checkpoint.config().tied, is_equal, "{dtype}");
        assert_eq!(checkpoint.notes().iter().any(Note::is_warning), !is_equal, "{dtype}");
        let unresolved = Checkpoint::open_unresolved(dir.path()).unwrap();
        assert!(unresolved.config().tied && !unresolved.notes().iter().any(Note::is_warning), "{dtype}");
        assert_eq!(unresolved.resolve().config().tied, is_equal, "{dtype}");
        // What is resolved already is not looked at again.
        for tied in [true, false] {
            let resolved = Checkpoint::open_resolved(dir.path(), tied).unwrap();
            let shard = resolved.shard(&Partition::new(resolved.config(), 0, 1)).unwrap();
            let has_head = shard.tensors().iter().any(|tensor| tensor.id == TensorId::LM_HEAD);
            assert_eq!((resolved.config().tied, has_head), (tied, !tied), "{dtype}");
        }
    }
}

#[test]
fn adapters_and_pointers_are_told_before_what_else_is_wrong() {
    let dir = directory(&[("adapter_config.json", b"{}".to_vec())]);
    let text = |dir: &tempfile::TempDir| Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(text(&dir).contains("beside the model"), "{}", text(&dir));
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(text(&dir).contains("not the model that it is for"), "{}", text(&dir));
    for name in ["config.json", SINGLE, "model.safetensors.index.json", "tokenizer.json", "generation_config.json"] {
        let dir = directory(&[(name, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec())]);
        let expected = format!("{name}: a pointer of Git LFS");
        assert!(text(&dir).contains(&expected), "{}", text(&dir));
    }
    let mut tensors = whole(Dtype::BF16);
    tensors.insert(
        "base_model.model.transformer.h.0.self_attention.dense.lora_A.weight".to_owned(),
        (Dtype::F32, vec![1], vec![0; 4]),
    );
    let dir = directory(&[(SINGLE, safetensors(&tensors))]);
    assert!(text(&dir).contains("lora_A.weight` is an adapter's"), "{}", text(&dir));
}
