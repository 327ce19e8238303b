//! What the workers hold.

use crate::support::{Server, demo_model, greedy, model_dir};
use model::Partition;
use std::path::Path;

/// The program itself, what the ranks share, and the room of a step.
const BESIDES: usize = 64 << 20;
const KV_TOKENS: usize = 4096;
const BF16_BYTES: usize = 2;
const KV_BYTES: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_holds_its_shard_and_its_cache() {
    for model in [demo_model(), model_dir("tiny-falcon-40b")] {
        for world in [1, 2] {
            check(&model, world).await;
        }
    }
}

async fn check(model: &Path, world: usize) {
    let config = weights::read_config(model).expect("a config");
    let world_text = world.to_string();
    let server = Server::ready(
        ["--model", model.to_str().expect("UTF-8"), "--tensor-parallel", &world_text].into_iter().chain([
            "--kv-tokens",
            &KV_TOKENS.to_string(),
            "--threads-per-rank",
            "1",
        ]),
    )
    .await;
    let workers = server.ranks(world).await;
    let client = server.client().await;
    for when in ["after the load", "after a long prompt"] {
        for (rank, worker) in workers.iter().enumerate() {
            let part = Partition::new(&config, rank, world);
            let weights = usize::try_from(part.weight_bytes(&config, BF16_BYTES)).expect("a tiny model");
            let budget = weights + KV_TOKENS * part.kv_bytes_per_token(&config, KV_BYTES);
            let (found, most) = (worker.memory_bytes(), budget + budget / 10 + BESIDES);
            assert!(found <= most, "{}, rank {rank} of {world}, {when}: {found} > {most}", model.display());
        }
        let mut request = greedy("", 8);
        request.input_ids = (0..500).map(|index| 20 + index % 900).collect();
        client.generate(request).await;
    }
    server.stop().await;
}
