//! Many callers at once with the largest bodies there may be: the coordinator's memory stays bounded, and small requests are
//! answered beside them.

use crate::support::{Client, Server, greedy, memory, seen};
use prost::Message;
use std::time::{Duration, Instant};
use tonic::Code;
use wire::generation as pb;

const CALLERS: usize = 64;
const GRPC_MESSAGE_BYTES: usize = 4 << 20;
const HTTP_BODY_BYTES: usize = 2 << 20;
const MEMORY_MAX: u64 = 600 << 20;
const MEMORY_AFTER: u64 = 150 << 20;

/// Messages of the largest size, each with its bytes in another field.
fn messages() -> Vec<pb::GenerateRequest> {
    let text = "a".repeat(GRPC_MESSAGE_BYTES - 100);
    let plain = pb::GenerateRequest { inputs: text.clone(), ..Default::default() };
    let with =
        |parameters| pb::GenerateRequest { parameters: Some(parameters), inputs: "a".to_owned(), ..Default::default() };
    let cut = pb::Parameters { truncate: Some(10), max_new_tokens: Some(1), ..Default::default() };
    vec![
        pb::GenerateRequest { parameters: Some(cut), ..plain.clone() },
        with(pb::Parameters {
            stop: vec![text[..text.len() - 100].to_owned()],
            max_new_tokens: Some(1),
            ..Default::default()
        }),
        with(pb::Parameters { stop: vec![String::new(); GRPC_MESSAGE_BYTES / 2 - 100], ..Default::default() }),
        pb::GenerateRequest { input_ids: vec![1; GRPC_MESSAGE_BYTES - 100], ..Default::default() },
        plain,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_of_the_largest_bodies_fit_a_bounded_memory() {
    let server = Server::ready(["--tensor-parallel", "1", "--kv-tokens", "2048"]).await;
    let (pid, messages) = (server.pid(), messages());
    println!("idle: {} MiB", memory(pid, "VmRSS") >> 20);
    assert!(messages.iter().all(|message| message.encoded_len() <= GRPC_MESSAGE_BYTES));
    let body = format!(r#"{{"inputs": "{}"}}"#, "a".repeat(HTTP_BODY_BYTES - 20));
    let grpc = async {
        for message in &messages {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..CALLERS / 2 {
                let (client, message) = (Client::connect(server.grpc).await, message.clone());
                calls.spawn(async move { client.try_generate(message).await });
            }
            while let Some(call) = calls.join_next().await {
                if let Err(status) = call.expect("no panic") {
                    let expected = [Code::InvalidArgument, Code::ResourceExhausted];
                    assert!(expected.contains(&status.code()), "{status}");
                }
            }
        }
    };
    let http = async {
        for _ in &messages {
            let posts = (0..CALLERS / 2).map(|_| server.post("/generate", &body));
            for answer in futures_util::future::join_all(posts).await {
                assert!([422, 429].contains(&answer.status), "{answer:?}");
            }
        }
    };
    let beside = async {
        let client = server.client().await;
        let mut longest = Duration::ZERO;
        loop {
            let begin = Instant::now();
            client.generate(greedy("Once", 2)).await;
            longest = longest.max(begin.elapsed());
            println!("beside: at most {longest:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = async { tokio::join!(grpc, http) } => {}
        () = beside => {}
    }
    let peak = memory(pid, "VmHWM");
    println!("peak: {} MiB", peak >> 20);
    assert!(peak < MEMORY_MAX, "{peak} bytes");
    let begin = Instant::now();
    seen("memory is given back", || (memory(pid, "VmRSS") < MEMORY_AFTER).then_some(())).await;
    println!("after {:?}: {} MiB", begin.elapsed(), memory(pid, "VmRSS") >> 20);
    server.stop().await;
}
