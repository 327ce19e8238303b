use crate::samples::{self, seeded};
use half::{bf16, f16};
use model::{Partition, Role};
use safetensors::Dtype;
use weights::Checkpoint;

#[test]
fn every_dtype_is_rounded_to_nearest_even_and_widened_exactly() {
    let (mut rng, config) = (seeded(), samples::config());
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        // Random bits: NaN, infinities, subnormals and numbers beyond bf16's precision are among them.
        let tensors = samples::random_tensors(dtype, &mut rng);
        let dir = samples::directory(&[("model.safetensors", samples::safetensors(&tensors))]);
        let files = Checkpoint::open(dir.path()).unwrap();
        let reader = files.shard(&Partition::new(&config, 0, 1)).unwrap();
        for tensor in reader.tensors() {
            let exact: Vec<f32> = widened(dtype, &tensors[&tensor.id.to_string()].2);
            let mut wide = vec![0.0; exact.len()];
            reader.read_f32(tensor, &mut wide);
            let mut narrow = vec![bf16::ZERO; exact.len()];
            reader.read(tensor, 0..exact.len(), &mut narrow);
            for ((exact, wide), narrow) in exact.into_iter().zip(wide).zip(narrow) {
                assert!(wide.to_bits() == exact.to_bits() || exact.is_nan() && wide.is_nan());
                assert!(is_nearest(exact, narrow), "{dtype} {exact} was rounded to {narrow}");
            }
        }
    }
}

fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        _ => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
    }
}

/// Whether `rounded` is the bf16 nearest to `exact`, the even one of two: by its neighbours, in f64.
fn is_nearest(exact: f32, rounded: bf16) -> bool {
    if exact.is_nan() || rounded.is_nan() {
        return exact.is_nan() && rounded.is_nan();
    }
    // As if the exponent had no upper limit, which is how IEEE 754 rounds to infinity.
    let value = |magnitude: u16| match bf16::from_bits(magnitude).to_f64() {
        beyond if beyond.is_infinite() => 2f64.powi(128),
        value => value,
    };
    let (magnitude, exact) = (rounded.to_bits() & 0x7fff, f64::from(exact.abs()).min(2f64.powi(128)));
    let distance = (value(magnitude) - exact).abs();
    let neighbours = [magnitude.checked_sub(1), (magnitude < 0x7f80).then_some(magnitude + 1)];
    neighbours.into_iter().flatten().all(|neighbour| {
        let other = (value(neighbour) - exact).abs();
        distance < other || distance == other && magnitude.is_multiple_of(2)
    })
}

#[test]
fn norms_of_an_f32_checkpoint_keep_their_precision() {
    let (mut rng, config) = (seeded(), samples::config());
    let mut tensors = samples::random_tensors(Dtype::F32, &mut rng);
    let exact = 1.0 + f32::EPSILON;
    let norm = tensors.get_mut("transformer.ln_f.weight").unwrap();
    norm.2 = exact.to_le_bytes().repeat(config.hidden);
    let dir = samples::directory(&[("model.safetensors", samples::safetensors(&tensors))]);
    let files = Checkpoint::open(dir.path()).unwrap();
    for rank in 0..2 {
        let reader = files.shard(&Partition::new(&config, rank, 2)).unwrap();
        let norm = reader.tensors().iter().find(|tensor| tensor.id.role == Role::FinalNorm).unwrap();
        let mut read = vec![0.0; config.hidden];
        reader.read_f32(norm, &mut read);
        assert_eq!(read, vec![exact; config.hidden]);
    }
}
