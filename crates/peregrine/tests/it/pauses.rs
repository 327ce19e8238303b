//! Processes that stand still for longer than any limit allows, and go on: a paused container, a migrated machine, ctrl-z.
//!
//! `PAUSE_SECONDS=70 cargo test --release -p peregrine --test it pauses -- --test-threads 1` has long ones.

use crate::cuda;
use crate::lifecycle::{begun, rest};
use crate::support::{Server, greedy, text_of};
use rustix::process::Signal;
use std::time::Duration;

const PROMPT: &str = "Once upon a time";

/// Limits of a step and of the ranks' waits, which a pause is longer than.
const LIMITS: [&str; 4] = ["--step-timeout", "2", "--collective-timeout", "2"];
const PAUSE_SECONDS: f64 = 3.5;

/// Longer than anybody asks who is stopped, so that the order matters in which processes go on.
const BETWEEN: Duration = Duration::from_millis(300);

/// Which processes stand still, in the order in which they go on: 0 is the coordinator, and a rank's is one more than the rank.
fn cases(world: usize) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..=world).collect();
    let mut cases = vec![all.clone(), all.into_iter().rev().collect(), vec![0], vec![1]];
    if world > 1 {
        cases.extend([vec![world], (1..=world).collect()]);
    }
    cases
}

fn pause() -> Duration {
    let seconds = std::env::var("PAUSE_SECONDS").map(|text| text.parse().expect("PAUSE_SECONDS is a number"));
    Duration::from_secs_f64(seconds.unwrap_or(PAUSE_SECONDS))
}

/// Streams end with the text of an undisturbed one, though in each some processes stand still.
async fn check_pauses(mut server: Server, world: usize, tokens: u32) {
    let client = server.client().await;
    let whole = client.generate(greedy(PROMPT, tokens)).await.generated_text;
    let workers = server.ranks(world).await;
    for stopped in cases(world) {
        let signal = |process: usize, signal| match process {
            0 => server.signal(signal),
            rank => workers[rank - 1].signal(signal),
        };
        let (mut stream, mut text) = begun(&client, tokens).await;
        stopped.iter().rev().for_each(|&process| signal(process, Signal::STOP));
        let while_paused = async {
            while let Some(message) = stream.message().await.expect("no error") {
                text += &text_of(&message.tokens);
            }
        };
        let ended = tokio::time::timeout(pause(), while_paused).await;
        assert!(ended.is_err(), "{stopped:?}: the stream was to be longer than the pause");
        for &process in &stopped {
            signal(process, Signal::CONT);
            tokio::time::sleep(BETWEEN).await;
        }
        let (last, end) = rest(stream).await;
        assert_eq!(end.unwrap_or_else(|status| panic!("{stopped:?}: {status}")).as_ref(), Some(&whole), "{stopped:?}");
        assert_eq!(text + &last, whole, "{stopped:?}");
    }
    server.says("stopped by a signal, and waited for: ranks [0]").await;
    server.stop().await;
}

async fn check_on_processors(world: usize) {
    let degree = world.to_string();
    let flags = ["--threads-per-rank", "1", "--isa", "plain", "--tensor-parallel", &degree];
    let server = Server::ready(flags.iter().chain(&LIMITS)).await;
    check_pauses(server, world, 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_rank_goes_on_after_a_pause() {
    check_on_processors(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_ranks_go_on_after_a_pause() {
    check_on_processors(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn four_ranks_go_on_after_a_pause() {
    check_on_processors(4).await;
}

/// Kernels of the other rank wait meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ranks_on_gpus_go_on_after_a_pause() {
    check_pauses(cuda::serve(&[], &LIMITS).await, 2, 30).await;
}
