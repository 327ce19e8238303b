//! Callers that give up: the server stops their work, and others do not notice.

use crate::support::{Client, Server, SlowModel, demo_model, greedy, ids, next_message, within};
use rustix::process::Signal;
use std::time::Duration;
use tonic::{Code, Request, Streaming};
use wire::generation as pb;

const PROMPT: &str = "Once upon a time";

/// Nearly the whole of the demo model's positions.
const LONG: u32 = 2000;

/// Reads tokens until there are `count`.
async fn read(stream: &mut Streaming<pb::GenerateStreamResponse>, into: &mut Vec<u32>, count: usize) {
    while into.len() < count {
        into.extend(ids(&next_message(stream).await.tokens));
    }
}

/// A server with room for two long requests, but not for a short one beside them.
async fn narrow_server() -> Server {
    let model = demo_model();
    let model = model.to_str().expect("UTF-8");
    Server::ready(["--model", model, "--kv-tokens", "4096", "--tensor-parallel", "2", "--isa", "plain"]).await
}

/// While `quitter` and another long request run, there is no room for a third. It runs once the quitter has quit, and long
/// before the other has ended, which computes a token in each step, as the quitter does.
async fn check_blocks_come_back(client: &Client, quitter: impl Future<Output = ()>) {
    let alone = client.generate(greedy(PROMPT, 300)).await;
    let alone = ids(&alone.details.expect("asked for").tokens);
    let (mut other, mut tokens) = (client.stream(greedy(PROMPT, LONG)).await, Vec::new());
    read(&mut other, &mut tokens, 1).await;
    quitter.await;
    let third = tokio::spawn({
        let client = client.clone();
        let request = greedy("The king had", 100);
        async move { client.try_generate(request).await }
    });
    while !third.is_finished() {
        let count = tokens.len() + 1;
        read(&mut other, &mut tokens, count).await;
        assert!(tokens.len() < LONG as usize, "the quitter's blocks did not come back");
    }
    third.await.expect("no panic").expect("an answer");
    read(&mut other, &mut tokens, alone.len()).await;
    assert_eq!(tokens[..alone.len()], alone, "the other request's tokens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dropped_stream_gives_its_blocks_back() {
    let server = narrow_server().await;
    let client = server.client().await;
    let quitter = async {
        let mut stream = client.stream(greedy("The wolf", LONG)).await;
        next_message(&mut stream).await;
    };
    check_blocks_come_back(&client, quitter).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_ends_a_stream() {
    let server = narrow_server().await;
    let client = server.client().await;
    let quitter = async {
        let mut request = Request::new(greedy("The wolf", LONG));
        request.set_timeout(Duration::from_millis(300));
        let mut stream = client.try_stream(request).await.expect("a stream");
        let mut count = 0;
        let status = loop {
            match within("a message", stream.message()).await {
                Ok(message) => count += message.expect("no end before the deadline").tokens.len(),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!((1..LONG as usize).contains(&count), "{count} tokens: not in the middle");
    };
    check_blocks_come_back(&client, quitter).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_callers_that_go_away_leave_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let arguments = ["--kv-tokens", "1024", "--max-batch-tokens", "64", "--tensor-parallel", "2"];
    let mut server = Server::ready(arguments).await;
    let client = server.client().await;
    let callers: Vec<_> = (0..60)
        .map(|_| {
            let client = client.clone();
            let request = greedy(&"a b c d ".repeat(random.usize(1..12)), random.u32(1..400));
            let messages = random.usize(0..40);
            tokio::spawn(async move {
                let mut stream = client.stream(request).await;
                for _ in 0..messages {
                    if within("a message", stream.message()).await.expect("no error").is_none() {
                        break;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no error");
    }
    // It needs every block, so nobody else can have one.
    let details = client.generate(greedy(PROMPT, 1020)).await.details.expect("asked for");
    assert_eq!(details.prompt_tokens + details.generated_tokens, 1024);
    server.signal(Signal::TERM);
    server.says("finishing 0 requests").await;
    let ended = server.end().await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_that_nobody_waits_for_end() {
    let model = SlowModel::new();
    let path = model.path().to_str().expect("UTF-8");
    let server = Server::ready(["--model", path, "--max-concurrent-requests", "1"]).await;
    let client = server.client().await;

    // A gRPC call whose caller goes away.
    let mut call = start_call(&client);
    let full = async {
        while is_free(&client).await {
            // The question may have taken the place that the call wanted.
            if call.is_finished() {
                call = start_call(&client);
            }
        }
    };
    within("the call is under way", full).await;
    call.abort();
    within("the place is free again", free(&client)).await;

    // The same over HTTP.
    let body = r#"{"inputs": "a", "parameters": {"max_new_tokens": 2000, "ignore_eos": true}}"#;
    let mut post = server.post_only("/generate", body).await;
    let full = async {
        while is_free(&client).await {
            post = server.post_only("/generate", body).await;
        }
    };
    within("the request is under way", full).await;
    drop(post);
    within("the place is free again", free(&client)).await;

    // A call whose deadline passes.
    let mut request = Request::new(greedy("a", LONG));
    request.set_timeout(Duration::from_millis(300));
    let status = within("a deadline", client.generation().generate(request)).await.expect_err("it takes longer");
    // The client watches the clock, too, and may be first; then it is the client that says `Cancelled`.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    within("the place is free again", free(&client)).await;
    server.stop().await;
}

/// `Generate` for a long text, by a caller that can be made to go away.
fn start_call(client: &Client) -> tokio::task::JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        // It is refused, if it is not dropped.
        let _ = client.try_generate(greedy("a", LONG)).await;
    })
}

/// Whether the one place of a server is free.
async fn is_free(client: &Client) -> bool {
    match client.try_generate(greedy("a", 1)).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            false
        }
    }
}

async fn free(client: &Client) {
    while !is_free(client).await {}
}
