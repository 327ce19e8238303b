//! Weights files that somebody changes while they are served.

use crate::support::{Server, demo_model, greedy};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::TempDir;

/// A tensor of which each of two ranks has a half of the rows.
const TENSOR: &str = "transformer.h.1.mlp.dense_h_to_4h.weight";

/// Where in a safetensors file the tensor begins.
fn place(file: &[u8], tensor: &str) -> usize {
    let header_bytes = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + header_bytes]).expect("JSON");
    8 + header_bytes + header[tensor]["data_offsets"][0].as_u64().expect("an offset") as usize
}

fn write(path: &Path, at: usize, bytes: &[u8]) {
    let file = File::options().write(true).open(path).expect("a file");
    file.write_all_at(bytes, at as u64).expect("room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_weights_file_that_changes_is_named_and_served_again_once_it_is_as_before() {
    let model = TempDir::new().expect("a temporary folder");
    for entry in fs::read_dir(demo_model()).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), model.path().join(entry.file_name())).expect("a copy");
    }
    let path = model.path().join("model.safetensors");
    let whole = fs::read(&path).expect("a file");
    // With this instruction set, weights are used where the file is mapped.
    let flags = ["--model", model.path().to_str().expect("UTF-8"), "--tensor-parallel", "2", "--isa", "plain"];
    let mut server = Server::ready(flags).await;
    let client = server.client().await;
    let expected = client.generate(greedy("Once upon a time", 8)).await.generated_text;

    // A byte of rank 0 changes, which is seen when the ranks load again.
    let at = place(&whole, TENSOR);
    write(&path, at, &[whole[at] ^ 1]);
    server.ranks(2).await[1].signal(Signal::KILL);
    let changed = format!("rank 0: {}: tensor `{TENSOR}` is changed since this rank was first ready", path.display());
    server.says(&changed).await;
    write(&path, at, &[whole[at]]);
    assert_eq!(client.generate(greedy("Once upon a time", 8)).await.generated_text, expected);

    // The file is cut short under the ranks' hands.
    File::options().write(true).open(&path).and_then(|file| file.set_len(whole.len() as u64 / 4)).expect("cut");
    let cut_short = format!("worker ended: exit status: 74; it said: ERROR {}: cut short while it", path.display());
    let (answer, ()) = tokio::join!(client.generate(greedy("Once upon a time", 8)), async {
        server.says(&cut_short).await;
        write(&path, 0, &whole);
    });
    assert_eq!(answer.generated_text, expected);
    server.stop().await;
}
