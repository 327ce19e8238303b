//! What the kernels of a decoding step move, by the stand-in's count: a layer of Falcon-180B, as one of 8 ranks has it.

use crate::standin::{finish, in_a_process, install, is_child, on_device};
use backend::{
    AttentionShape, Backend, Batch, BatchSeq, KvGroup, Linear, Norm, NormLinear, Positions, SingleRank, StepInput,
    Tensor,
};
use backend_cuda::{Cuda, CudaOptions};
use half::bf16;
use model::{FalconConfig, Partition};
use std::collections::HashMap;
use std::path::Path;
use step::BLOCK_TOKENS;

/// Positions of the sequence, of which the last is computed.
const POSITIONS: usize = 2048;
/// Distinct bytes may be so much more than those that must move.
const OVER: f64 = 1.03;
/// Bytes that are read again may be so much of the weights.
const AGAIN: f64 = 0.1;

/// Sizes of the rank's part.
struct Sizes {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
}

impl Sizes {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sizing/src/configs/falcon-180b.json");
        let config = FalconConfig::from_json(&std::fs::read(path).expect("a config")).expect("a config");
        let Partition { q_heads, kv_heads, ffn, .. } = Partition::new(&config, 0, 8);
        let (heads, kv_heads, ffn) = (q_heads.len(), kv_heads.len(), ffn.len());
        Self { hidden: config.hidden, heads, kv_heads, head_dim: config.head_dim, ffn }
    }

    fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Not a test of its own, but run by one, in a process: the layer, once, with weights of zero.
#[test]
fn one_layer() {
    if !is_child() {
        return;
    }
    install();
    let sizes @ Sizes { hidden, heads, kv_heads, head_dim, ffn } = &Sizes::new();
    let mut backend = Cuda::new(&CudaOptions::new(0), Box::new(SingleRank)).expect("a device");
    let b = &mut backend;
    let mut linear =
        |outputs, inputs| Linear { weight: b.matrix(outputs, inputs, &|_, _| {}).expect("room"), bias: None };
    let [qkv, up, dense, down] =
        [(sizes.qkv(), *hidden), (*ffn, *hidden), (*hidden, heads * head_dim), (*hidden, *ffn)]
            .map(|(o, i)| linear(o, i));
    let mut vector = || b.vector(&vec![1.0; *hidden]).expect("room");
    let norms = [(); 2].map(|()| Norm { scale: vector(), bias: vector(), eps: 1e-5 });
    let groups = vec![KvGroup { queries: heads / kv_heads }; *kv_heads];
    let positions = Positions::rotary(10_000.0, *head_dim);
    let (head_dim, head_width) = (*head_dim, *head_dim);
    let shape = AttentionShape { head_dim, head_width, groups, positions, max_positions: POSITIONS };
    let blocks = POSITIONS / BLOCK_TOKENS;
    let mut cache = b.kv_cache(&shape, 1, blocks).expect("room");
    let mut tensor = |columns| {
        let mut tensor = b.tensor(1, columns).expect("room");
        tensor.set_rows(1);
        tensor
    };
    let [mut x, mut normed, mut sum] = [(); 3].map(|()| tensor(*hidden));
    let [mut qkv_out, mut attended, mut up_out] = [sizes.qkv(), heads * head_dim, *ffn].map(&mut tensor);
    b.write(&mut x, &vec![1.0; *hidden]).expect("write");
    let products = &mut [
        NormLinear { norm: &norms[0], linear: &qkv, gelu: false, y: &mut qkv_out },
        NormLinear { norm: &norms[1], linear: &up, gelu: true, y: &mut up_out },
    ];
    b.norm_linear(&x, products, &mut normed).expect("norm_linear");
    let seq = BatchSeq { rows: 0..1, start: POSITIONS - 1, slot: None, table: 0..blocks };
    let batch = Batch { tokens: vec![1], seqs: vec![seq], blocks: (0..blocks as u32).collect() };
    let step = b.prepare(StepInput::without_logits(&batch)).expect("prepare");
    b.attend(&qkv_out, &step, 0, &mut cache, &mut attended).expect("attend");
    b.dense_and_down(&attended, &dense, &up_out, &down, &mut sum).expect("dense_and_down");
    b.all_reduce_add(&mut sum, &mut x).expect("all_reduce_add");
    b.read(&x).expect("read");
}

/// What the stand-in counted, for each kernel by the names of its columns, over all of its launches.
fn counted() -> HashMap<String, HashMap<String, u64>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bytes");
    let child = in_a_process("bytes::one_layer", &[("CUDA_STANDIN_REPORT", path.to_str().expect("UTF-8"))]);
    let report = path.with_file_name(format!("bytes.{}", child.id()));
    let (said, succeeded) = finish(child);
    assert!(succeeded, "{said}");
    let text = std::fs::read_to_string(report).expect("a report");
    println!("{text}");
    let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let columns = lines.next().expect("a header");
    let row = |row: Vec<&str>| {
        let numbers: Vec<u64> = row[1..].iter().map(|number| number.parse().expect("a number")).collect();
        (row[0].to_owned(), columns[1..].iter().map(|name| (*name).to_owned()).zip(numbers).collect())
    };
    lines.map(row).collect()
}

#[test]
fn kernels_move_little_more_than_they_must() {
    if is_child() || on_device() {
        return;
    }
    let sizes @ Sizes { hidden, heads, kv_heads, head_dim, ffn } = &Sizes::new();
    let counted = counted();
    let count = |kernel: &str, column: &str| counted[kernel][column];
    for (kernel, launches) in [("norm_product_8", 1), ("product_8", 1), ("rotate_attend_64", 1), ("add_residual", 2)] {
        assert_eq!(count(kernel, "launches"), launches, "{kernel}");
    }
    let norms = 4 * hidden * size_of::<f32>();
    let moments = hidden / 128 * 2 * size_of::<f32>();
    let row = hidden * size_of::<f32>();
    // The products: their weights, and what each block reads again.
    for (kernel, weights, activations, outputs) in [
        ("norm_product_8", (sizes.qkv() + ffn) * hidden, row + norms + moments, sizes.qkv() + ffn),
        ("product_8", hidden * (heads * head_dim + ffn), (heads * head_dim + ffn) * size_of::<bf16>(), *hidden),
    ] {
        let weights = (weights * size_of::<bf16>()) as u64;
        let distinct = count(kernel, "distinct_read") + count(kernel, "distinct_written");
        let again = count(kernel, "read") - count(kernel, "distinct_read");
        let conflicts = count(kernel, "shared_conflicts") as f64 / count(kernel, "shared_wavefronts") as f64;
        println!(
            "{kernel}: {weights} bytes of weights, {distinct} distinct bytes ({:.4}), {again} read again ({:.4}), \
             {conflicts:.4} of the wavefronts for bank conflicts",
            distinct as f64 / weights as f64,
            again as f64 / weights as f64,
        );
        assert!(distinct >= weights && distinct as f64 <= OVER * weights as f64, "{kernel}: {distinct} distinct bytes");
        assert!(again as f64 <= AGAIN * weights as f64, "{kernel}: {again} bytes read again");
        // Only what blocks share is read more than once: activations, norms, how many rows there are, and the ticket of a
        // tile of 64 outputs that is cut between blocks.
        let (reread, shared) = (count(kernel, "reread"), (activations + 4 * (1 + outputs / 64)) as u64);
        assert!(reread <= shared, "{kernel}: {reread} bytes are read more than once, weights among them");
    }
    // Attention: keys and values. Beside them, from the L2 cache: the query, its rotation, and each split's result.
    let splits = POSITIONS / 128;
    let partials = splits * heads * (head_dim + 2) * size_of::<f32>();
    let cached = POSITIONS * kv_heads * head_dim * 2 * size_of::<bf16>();
    let inputs = sizes.qkv() * size_of::<f32>();
    let read = count("rotate_attend_64", "distinct_read") as usize;
    println!("rotate_attend_64: {cached} bytes of keys and values, {read} distinct bytes read, {partials} of results");
    assert!((read - partials) as f64 <= OVER * (cached + inputs) as f64, "{read} distinct bytes of attention");
    // The sum: the partial one and x are read, x and its moments written. The other launch, of `write`, has no partial one.
    let must = 5 * row + 2 * moments;
    let sum = count("add_residual", "distinct_read") + count("add_residual", "distinct_written");
    println!("add_residual: {must} bytes must move, {sum} distinct bytes");
    assert!(sum as f64 <= OVER * must as f64, "{sum} distinct bytes of two sums");
}
