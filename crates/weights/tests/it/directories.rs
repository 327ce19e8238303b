use crate::samples::{self, Tensors, directory, safetensors, seeded};
use model::Partition;
use safetensors::Dtype;
use std::path::Path;
use weights::{Checkpoint, WeightsError, read_config};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const LN_F: &str = "transformer.ln_f.weight";

fn whole() -> Tensors {
    samples::random_tensors(Dtype::BF16, &mut seeded())
}

/// The model's tensors in two files, `1` and `2`, the second one holding `ln_f` alone.
fn halves() -> (Tensors, Tensors) {
    let mut first = whole();
    let second = first.remove_entry(LN_F).into_iter().collect();
    (first, second)
}

/// An index over two files.
fn index(first: &Tensors, second: &Tensors) -> Vec<u8> {
    let entry = |name: &String, file: &str| format!("{name:?}:{file:?}");
    let entries = first.keys().map(|name| entry(name, "1")).chain(second.keys().map(|name| entry(name, "2")));
    format!(r#"{{"weight_map":{{{}}}}}"#, entries.collect::<Vec<_>>().join(",")).into_bytes()
}

/// Opens `dir`; the text of the error must hold all `parts`.
fn expect_error(dir: &Path, parts: &[&str]) {
    let text = Checkpoint::open(dir).unwrap_err().to_string();
    for part in parts.iter().chain(&[&*dir.to_string_lossy()]) {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn one_file_or_several_over_an_index_are_opened() {
    let config = samples::config();
    let (first, second) = halves();
    for dir in [
        directory(&[(SINGLE, safetensors(&whole()))]),
        directory(&[("1", safetensors(&first)), ("2", safetensors(&second)), (INDEX, index(&first, &second))]),
    ] {
        let files = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(files.shard(&Partition::new(&config, 0, 1)).unwrap().tensors().len(), whole().len());
    }
}

#[test]
fn a_directory_without_a_checkpoint_says_what_was_looked_for() {
    expect_error(directory(&[]).path(), &[SINGLE, INDEX]);
    let error = Checkpoint::open(Path::new("no/such/directory")).unwrap_err();
    assert!(matches!(error, WeightsError::Io { .. }), "{error}");
}

#[test]
fn damaged_files_are_named() {
    let bytes = safetensors(&whole());
    let name_and = |part| [SINGLE, part];
    expect_error(directory(&[(SINGLE, vec![])]).path(), &name_and("header too small"));
    expect_error(directory(&[(SINGLE, bytes[..100].to_vec())]).path(), &name_and("invalid header length"));
    expect_error(directory(&[(SINGLE, bytes[..bytes.len() - 1].to_vec())]).path(), &name_and("cut short"));

    let mut tensors = whole();
    tensors.insert(LN_F.to_owned(), (Dtype::F64, vec![1], vec![0; 8]));
    expect_error(directory(&[(SINGLE, safetensors(&tensors))]).path(), &[SINGLE, LN_F, "F64"]);
}

#[test]
fn an_index_must_agree_with_its_files() {
    let (first, second) = halves();
    let (one, two) = (("1", safetensors(&first)), ("2", safetensors(&second)));
    let good = (INDEX, index(&first, &second));

    expect_error(directory(&[one.clone(), good.clone()]).path(), &[INDEX, LN_F, "no such file"]);

    let swapped = ("2", safetensors(&Tensors::new()));
    expect_error(directory(&[one.clone(), swapped, good.clone()]).path(), &[INDEX, LN_F, "`2`", "does not hold it"]);

    let twice = ("2", safetensors(&whole()));
    expect_error(directory(&[one.clone(), twice, good]).path(), &["is in two files", "/1", "/2"]);

    // Each tensor is in the file which the index gives to the other.
    let crossed = (INDEX, index(&second, &first));
    expect_error(directory(&[one.clone(), two.clone(), crossed]).path(), &[INDEX, "does not hold it"]);

    let outside = (INDEX, br#"{"weight_map":{"w":"../w.safetensors"}}"#.to_vec());
    expect_error(directory(&[one, two, outside]).path(), &[INDEX, "`w`", "../w.safetensors"]);

    expect_error(directory(&[(INDEX, b"{".to_vec())]).path(), &[INDEX, "not valid JSON"]);
}

#[test]
fn tensors_that_are_not_the_models_are_named_with_their_file() {
    let mut foreign = whole();
    foreign.insert("transformer.gate".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
    expect_error(directory(&[(SINGLE, safetensors(&foreign))]).path(), &[SINGLE, "unknown tensor `transformer.gate`"]);

    let mut misshapen = whole();
    misshapen.insert(LN_F.to_owned(), (Dtype::BF16, vec![3], vec![0; 6]));
    let expected = [SINGLE, LN_F, "expected shape [16], found [3]"];
    expect_error(directory(&[(SINGLE, safetensors(&misshapen))]).path(), &expected);

    let (lacking, _) = halves();
    expect_error(directory(&[(SINGLE, safetensors(&lacking))]).path(), &[LN_F, "is missing"]);
}

#[test]
fn a_config_is_read_with_its_path_in_errors() {
    let dir = directory(&[]);
    assert_eq!(read_config(dir.path()).unwrap(), samples::config());
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    let text = read_config(dir.path()).unwrap_err().to_string();
    assert!(text.ends_with("config.json: field `model_type` is missing"), "{text}");
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    let text = read_config(dir.path()).unwrap_err().to_string();
    assert!(text.contains("config.json: No such file"), "{text}");
}

#[test]
fn damaged_files_never_panic_up_to_the_shard() {
    let (mut rng, config) = (seeded(), samples::config());
    let bytes = safetensors(&whole());
    let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let dir = directory(&[]);
    for _ in 0..2000 {
        let mut damaged = bytes.clone();
        let at = rng.usize(8..header_end);
        damaged[at] = *rng.choice(b"0123456789[]{}\",").unwrap();
        std::fs::write(dir.path().join(SINGLE), &damaged).unwrap();
        let Ok(files) = Checkpoint::open(dir.path()) else { continue };
        let reader = files.shard(&Partition::new(&config, 0, 1)).unwrap();
        for tensor in reader.tensors() {
            reader.read_f32(tensor, &mut vec![0.0; tensor.local_elements()]);
        }
    }
}
