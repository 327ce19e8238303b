//! What is fetched, how often, and what becomes of it when the connection is bad.

use super::server::{Fault, S3};
use super::{Node, PIECE_BYTES, PREFIX, URL, files, put};
use model::{FalconConfig, Partition};
use serde_json::Value;
use source::{Progress, StoreError, Wanted};
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use testkit::goldens::model_dir;
use weights::{Checkpoint, CutFolder, Cutting, read_config};

const MODEL: &str = "tiny-falcon-40b";
const WEIGHTS: &str = "model.safetensors";

/// Where in a safetensors file a rank's parts of each tensor are, with the tensors' names.
fn runs(file: &Path, config: &FalconConfig, partition: &Partition) -> Vec<(String, Range<usize>)> {
    let bytes = fs::read(file).expect("a file");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let entries: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("JSON");
    let mut runs = Vec::new();
    for tensor in model::shard(config, partition) {
        let name = tensor.id.to_string();
        let offsets = &entries[&name]["data_offsets"];
        let start = 8 + header + offsets[0].as_u64().expect("an offset") as usize;
        let stored = offsets[1].as_u64().expect("an offset") as usize + 8 + header - start;
        let shape = entries[&name]["shape"].as_array().expect("a shape");
        let elements: usize = shape.iter().map(|size| size.as_u64().expect("a size") as usize).product();
        let width = stored / elements;
        for row in tensor.rows.iter().cloned().flatten() {
            let first = start + (row * tensor.columns_total + tensor.columns.start) * width;
            runs.push((name.clone(), first..first + tensor.local_columns() * width));
        }
    }
    runs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_fetches_each_byte_once_however_tensors_are_cut_and_nothing_at_the_second_start() {
    let (s3, dir) = (S3::start(), model_dir(MODEL));
    put(&s3, &dir).await;
    let (node, progress) = (Node::new(&s3), Arc::<Progress>::default());
    let folder = node.bring_with(Wanted::Model, &progress).await.expect("it comes");
    let gets = s3.gets();

    let size = fs::metadata(dir.join(WEIGHTS)).expect("a file").len();
    let mut counts = vec![0_u32; size as usize];
    for asked in gets.iter().filter(|asked| asked.key.ends_with(WEIGHTS)) {
        let range = asked.range.clone().expect("a range");
        assert_eq!(asked.sent, range.end - range.start, "{asked:?}");
        counts[range.start as usize..range.end as usize].iter_mut().for_each(|count| *count += 1);
    }
    let config = read_config(&dir).expect("a config");
    for rank in 0..4 {
        let partition = Partition::new(&config, rank, 4);
        let (mut fetched, mut shard) = (0, 0);
        for (name, run) in runs(&dir.join(WEIGHTS), &config, &partition) {
            shard += run.len();
            let counts = &counts[run];
            fetched += counts.iter().sum::<u32>() as usize;
            let is_cut_by_columns = name.ends_with("dense.weight") || name.ends_with("dense_4h_to_h.weight");
            assert!(!is_cut_by_columns || counts.iter().all(|count| *count == 1), "rank {rank}, {name}");
        }
        assert!(shard > 1_000_000 && fetched.abs_diff(shard) * 100 <= shard, "rank {rank}: {fetched} of {shard}");
    }
    assert!(counts.iter().all(|count| *count == 1));

    let described = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", WEIGHTS];
    for (name, bytes) in files(&dir).into_iter().filter(|(name, _)| described.contains(&&**name)) {
        assert!(fs::read(folder.join(&name)).expect("it has come") == bytes, "{name}");
    }
    assert!(!folder.join("config_legacy.json").exists(), "no model needs it");
    Checkpoint::open(&folder).expect("a model");
    let all: u64 = files(&folder).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(progress.get(), (all, all));

    node.bring(Wanted::Model).await.expect("it is there");
    assert!(s3.gets().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_weights_are_fetched_after_what_describes_the_model() {
    let (s3, dir) = (S3::start(), model_dir(MODEL));
    put(&s3, &dir).await;
    let node = Node::new(&s3);
    let folder = node.bring(Wanted::Description).await.expect("it comes");
    assert!(folder.join("config.json").exists() && !folder.join(WEIGHTS).exists());
    s3.asked();
    node.bring(Wanted::Model).await.expect("it comes");
    assert!(s3.gets().iter().all(|asked| asked.key.ends_with(WEIGHTS)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_and_busy_servers_are_asked_again() {
    let (s3, dir) = (S3::start(), model_dir(MODEL));
    put(&s3, &dir).await;
    let mut number = 0;
    s3.break_by(move |asked| {
        number += 1;
        match number % 3 {
            0 if asked.range.is_some() => Some(Fault::Cut(30_000)),
            1 => Some(Fault::Status(503)),
            _ => None,
        }
    });
    let node = Node::new(&s3);
    let folder = node.bring(Wanted::Model).await.expect("it comes");
    assert!(fs::read(folder.join(WEIGHTS)).expect("a file") == fs::read(dir.join(WEIGHTS)).expect("a file"));
    // What had come of an answer is not asked for again.
    let gets = s3.gets();
    let sent: u64 = gets.iter().filter(|asked| asked.key.ends_with(WEIGHTS)).map(|asked| asked.sent).sum();
    let size = fs::metadata(dir.join(WEIGHTS)).expect("a file").len();
    assert!(gets.len() as u64 > size / PIECE_BYTES + 10 && sent < size + size / 2, "{sent} of {size}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_interrupted_goes_on_where_it_was_and_what_is_damaged_comes_again() {
    let (s3, dir) = (S3::start(), model_dir(MODEL));
    put(&s3, &dir).await;
    let node = Node::new(&s3);
    let mut left = 100;
    s3.break_by(move |asked| {
        left -= i32::from(asked.range.is_some() && asked.key.ends_with(WEIGHTS));
        (left < 0).then_some(Fault::Status(403))
    });
    let error = node.bring(Wanted::Model).await.expect_err("no more").to_string();
    assert!(error.starts_with(&format!("{URL}/{WEIGHTS}: the store refuses")), "{error}");
    assert!(error.contains("AWS_ACCESS_KEY_ID"), "{error}");
    s3.mend();

    let path = node.cache.path().join("s3/models").join(PREFIX).join(WEIGHTS);
    let journal = fs::read_to_string(path.with_file_name(".fetched")).expect("a journal");
    let is_piece = |line: &&str| line.contains("\"piece\"") && line.contains(WEIGHTS);
    let place = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["piece"]["index"].as_u64().expect("a number") * PIECE_BYTES
    };
    let there: Vec<u64> = journal.lines().filter(is_piece).map(place).collect();
    let at = there[0] + 5;
    let file = fs::File::options().read(true).write(true).open(&path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("room");
    s3.asked();

    let folder = node.bring(Wanted::Model).await.expect("it comes");
    let come: BTreeSet<u64> = s3.gets().into_iter().filter_map(|asked| Some(asked.range?.start)).collect();
    let size = fs::metadata(&path).expect("a file").len();
    let lacking = (0..size).step_by(PIECE_BYTES as usize).filter(|start| !there[1..].contains(start));
    assert_eq!(come, lacking.collect());
    assert!(fs::read(folder.join(WEIGHTS)).expect("a file") == fs::read(dir.join(WEIGHTS)).expect("a file"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_checksum_is_an_error_that_names_the_object() {
    let (s3, dir) = (S3::start(), model_dir(MODEL));
    put(&s3, &dir).await;
    let node = Node::new(&s3);
    s3.break_by(|asked| asked.key.ends_with(WEIGHTS).then_some(Fault::Flip(1_000_000)));
    let error = node.bring(Wanted::Model).await.expect_err("it is not what was sent").to_string();
    assert!(error.starts_with(&format!("{URL}/{WEIGHTS}: what came has CRC-64/NVME ")), "{error}");
    assert!(error.contains("expected CRC-64/NVME "), "{error}");
    s3.mend();
    node.bring(Wanted::Model).await.expect("it comes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifest_of_a_cut_model_says_what_its_files_must_be() {
    let (s3, dir) = (S3::start(), model_dir(MODEL));
    let (cut, checkpoint) = (tempfile::tempdir().expect("a folder"), Checkpoint::open(&dir).expect("a model"));
    let mut folder = CutFolder::new(cut.path()).expect("a folder");
    Cutting::new(&dir, &checkpoint, 4).expect("a model").write(&mut folder, &mut |_| {}).expect("it is written");
    folder.finish().expect("it is written");
    put(&s3, cut.path()).await;

    const RANK: &str = "rank-2-of-4.safetensors";
    let node = Node::new(&s3);
    s3.break_by(|asked| asked.key.ends_with(RANK).then_some(Fault::Flip(1_000_000)));
    let error = node.bring(Wanted::Model).await.expect_err("it is not what was cut").to_string();
    assert!(error.starts_with(&format!("{URL}/{RANK}: what came has CRC-32 ")), "{error}");
    s3.mend();
    s3.asked();

    let node = Node::new(&s3);
    let brought = node.bring(Wanted::Model).await.expect("it comes");
    let gets = s3.gets();
    for rank in 0..4 {
        let name = format!("rank-{rank}-of-4.safetensors");
        let sent: u64 = gets.iter().filter(|asked| asked.key.ends_with(&name)).map(|asked| asked.sent).sum();
        assert_eq!(sent, fs::metadata(cut.path().join(&name)).expect("a file").len(), "{name}");
        assert!(fs::read(brought.join(&name)).expect("a file") == fs::read(cut.path().join(&name)).expect("a file"));
    }
    assert_eq!(Checkpoint::open(&brought).expect("a model").tensor_parallel(), Some(4));
}

/// Puts other bytes in the place of an object, of the same length, without a word to the server.
fn overwrite(root: &Path, file: &Path) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[0] ^= 1;
    fs::write(file, bytes).expect("room");
    for entry in fs::read_dir(root).expect("a folder").map(|entry| entry.expect("an entry")) {
        if entry.file_name().to_string_lossy().ends_with(".internal.json") {
            fs::remove_file(entry.path()).expect("what the server knew of an object");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_changed_meanwhile_is_an_error_and_later_comes_again() {
    let (s3, dir) = (S3::start(), model_dir(MODEL));
    put(&s3, &dir).await;
    let node = Node::new(&s3);
    let (root, file, mut gets) = (s3.root().to_owned(), s3.file(&format!("{PREFIX}/{WEIGHTS}")), 0);
    s3.break_by(move |asked| {
        gets += i32::from(asked.range.is_some() && asked.key.ends_with(WEIGHTS));
        if gets == 10 {
            overwrite(&root, &file);
            gets += 1;
        }
        None
    });
    let error = node.bring(Wanted::Model).await.expect_err("it is another").to_string();
    assert_eq!(error, format!("{URL}/{WEIGHTS}: it was changed while it was fetched; start again"));
    s3.mend();
    let folder = node.bring(Wanted::Model).await.expect("it comes");
    let there = s3.file(&format!("{PREFIX}/{WEIGHTS}"));
    assert!(fs::read(folder.join(WEIGHTS)).expect("a file") == fs::read(&there).expect("a file"));

    overwrite(s3.root(), &s3.file(&format!("{PREFIX}/config.json")));
    s3.asked();
    node.bring(Wanted::Model).await.expect("it comes");
    assert!(s3.gets().iter().all(|asked| asked.key.ends_with("config.json")));
    let (come, there) = (folder.join("config.json"), s3.file(&format!("{PREFIX}/config.json")));
    assert!(fs::read(come).expect("a file") == fs::read(there).expect("a file"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_what_was_fetched_is_used_and_nothing_else() {
    let (s3, dir) = (S3::start(), model_dir(MODEL));
    put(&s3, &dir).await;
    let (mut node, mut other) = (Node::new(&s3), Node::new(&s3));
    node.bring(Wanted::Model).await.expect("it comes");
    drop(s3);
    for node in [&mut node, &mut other] {
        node.settings.retry_limit = std::time::Duration::from_millis(300);
    }
    node.bring(Wanted::Model).await.expect("it is there");
    let error = other.bring(Wanted::Model).await.expect_err("it is not there");
    let StoreError::Failed { object, reason } = error else { panic!("{error}") };
    assert!(object == URL && !reason.is_empty(), "{object}: {reason}");
}
