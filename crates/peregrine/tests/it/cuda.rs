//! `peregrine serve --backend cuda` over the stand-in libraries: what it answers, and what goes wrong on GPUs.
//!
//! The faults are switches of the stand-in. Counts of launches are such that the load succeeds and a long text does not.

use crate::standin;
use crate::support::{Program, Server, greedy, next_message};
use testkit::goldens::{Golden, Observed, Tolerance};
use tonic::Code;

const PROMPT: &str = "Once upon a time";

/// A server over two devices, with switches of the stand-in and flags.
pub async fn serve(switches: &[(&str, &str)], flags: &[&str]) -> Server {
    serve_over("2", switches, flags).await
}

pub async fn serve_over(devices: &str, switches: &[(&str, &str)], flags: &[&str]) -> Server {
    let variables = standin::environment();
    let variables = variables.iter().map(|(name, value)| (*name, &**value)).chain(switches.iter().copied());
    let variables: Vec<_> = variables.collect();
    let degree = ["--tensor-parallel", devices];
    let mut server = Server::start_with(&variables, degree.iter().chain(&ARGUMENTS).chain(flags)).await;
    server.says("loaded ").await;
    server
}

const ARGUMENTS: [&str; 6] = ["--backend", "cuda", "--kv-tokens", "2048", "--max-batch-tokens", "64"];

/// Such a server does not come up, and says all of `parts`.
async fn check_refused(switches: &[(&str, &str)], flags: &[&str], parts: &[&str]) {
    let fixed = ["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--tensor-parallel", "2"];
    let program = Program::new(fixed.iter().chain(&ARGUMENTS).chain(flags));
    let ended = program.envs(standin::environment()).envs(switches.iter().copied()).run().await;
    let stderr = ended.failure();
    for part in parts {
        assert!(stderr.contains(part), "{switches:?}: {stderr:?} lacks {part:?}");
    }
}

/// Demo answers are the golden ones, up to near-ties.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_demo_model_answers_as_the_golden() {
    for devices in ["1", "2", "4", "8"] {
        check_golden(serve_over(devices, &[], &[]).await).await;
    }
}

async fn check_golden(server: Server) {
    let client = server.client().await;
    for name in ["capital", "sum"] {
        let golden = Golden::of("falcon-demo");
        let case = golden.case(name);
        let mut request = greedy(&case.prompt, case.greedy.ids.len() as u32);
        request.parameters.get_or_insert_default().decoder_input_details = Some(true);
        let answer = client.generate(request).await;
        assert_eq!(answer.generated_text, case.greedy.text, "{name}");
        let details = answer.details.expect("details");
        let observed = Observed {
            prompt_logprobs: details.prefill.iter().filter_map(|token| token.logprob).collect(),
            tokens: details.tokens.iter().map(|token| token.id).collect(),
            logprobs: details.tokens.iter().filter_map(|token| token.logprob).collect(),
            logits: Vec::new(),
        };
        let wrong = case.check_greedy(&observed, Tolerance { margin: 0.1, ..case.bf16_tolerance("falcon-demo") });
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    server.stop().await;
}

/// Sequences end while a step that runs them is on its way, and others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn callers_that_give_up_disturb_nobody() {
    let server = serve(&[], &["--deterministic"]).await;
    let client = server.client().await;
    let alone = client.generate(greedy(PROMPT, 20)).await.generated_text;
    let other = tokio::spawn({
        let client = client.clone();
        async move { client.generate(greedy(PROMPT, 20)).await.generated_text }
    });
    for _ in 0..3 {
        let mut stream = client.stream(greedy("The fox said", 100)).await;
        next_message(&mut stream).await;
    }
    assert_eq!(other.await.expect("no panic"), alone);
    server.stop().await;
}

/// Something happens to rank 1 whenever it has worked for a while. That is no request's fault: the server gives up, and says what it was.
async fn check_fault(switches: &[(&str, &str)], flags: &[&str], reasons: &[&str]) {
    let flags = [flags, &["--restarts-max", "1"]].concat();
    let server = serve(switches, &flags).await;
    let status = server.client().await.try_generate(greedy(PROMPT, 200)).await.expect_err("rank 1 fails twice");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let ended = server.end().await;
    for reason in reasons {
        assert!(status.message().contains(reason), "{status} lacks {reason:?}: {ended:?}");
    }
    assert!(!ended.stderr.contains("the ranks fail whenever sequence"), "{ended:?}");
    assert_eq!(ended.status.code(), Some(69), "{ended:?}");
}

/// Its peer waits for it in the kernel of a sum; nobody waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rank_that_dies_in_an_all_reduce_is_named() {
    check_fault(&[("CUDA_STANDIN_DIE", "1:200")], &[], &["rank 1: worker ended"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_uncorrectable_memory_error_is_named() {
    check_fault(&[("CUDA_STANDIN_ECC", "1:200")], &[], &["rank 1", "device 1", "ECC"]).await;
}

/// The ranks' own time limit says which operation hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_all_reduce_that_hangs_is_given_up_by_the_ranks() {
    let flags = ["--all-reduce", "nccl", "--collective-timeout", "2"];
    check_fault(&[("CUDA_STANDIN_HANG", "1:50")], &flags, &["rank ", "step ", "rank is gone, or the device hangs"])
        .await;
}

/// So does the limit of a step, where the ranks would wait for each other for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_all_reduce_that_hangs_does_not_outlast_a_step() {
    let flags = ["--all-reduce", "nccl", "--step-timeout", "2"];
    check_fault(&[("CUDA_STANDIN_HANG", "1:50")], &flags, &["rank ", "step ", "within"]).await;
}

/// Peers that cannot read each other's memory are no fault, unless that was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lost_peers_sum_by_nccl() {
    let lost = [("CUDA_STANDIN_NO_PEER", "0-1")];
    let mut server = serve(&lost, &[]).await;
    server.says("all-reduce by NCCL: not every device can access the memory of every other").await;
    let answer = server.client().await.generate(greedy(PROMPT, 3)).await;
    assert!(!answer.generated_text.is_empty());
    server.stop().await;
    let parts = ["error: rank ", "choosing an all-reduce", "cannot read each other's memory"];
    check_refused(&lost, &["--all-reduce", "one-shot"], &parts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_model_without_room_is_refused() {
    // Before a worker is started.
    let parts =
        ["error: --model ", "a rank has 0.05 GB of memory and needs ", "the model needs a machine with more memory"];
    check_refused(&[("CUDA_STANDIN_MEMORY_MB", "48")], &[], &parts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn machines_that_will_not_do_are_refused_before_anything_is_loaded() {
    for (switch, value, expected) in [
        ("CUDA_STANDIN_DEVICES", "1", "--tensor-parallel 2 needs 2 GPUs, and the driver finds 1"),
        ("CUDA_STANDIN_DEVICES", "0", "the NVIDIA driver finds no GPU"),
        ("CUDA_STANDIN_DRIVER", "11080", "the NVIDIA driver has CUDA 11.8, expected 12.2 or later (driver R535)"),
    ] {
        check_refused(&[(switch, value)], &[], &["--backend cuda", expected]).await;
    }
}
