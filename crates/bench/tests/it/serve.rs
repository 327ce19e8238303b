//! `bench serve` against servers some of whose answers are broken.

use crate::stand_in::{Behaviour, Ending, TOKENS, start};
use bench::serve::{ServeError, ServeOptions, Spacing, run};
use bench::{Ended, Environment, Protocol};
use serde_json::Value;
use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A server, and files for results.
struct Bench {
    options: ServeOptions,
    folder: TempDir,
    server: Arc<Behaviour>,
    table: String,
}

impl Bench {
    async fn of(ending: Ending, hangs: bool, protocol: Protocol, datasets: &[&str]) -> Self {
        let (address, server) = start(ending, hangs).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = ServeOptions {
            address,
            protocol,
            stream: true,
            datasets: datasets.iter().map(|dataset| dataset.parse().expect("a dataset")).collect(),
            num_prompts: 8,
            request_rates: vec![f64::INFINITY],
            spacing: Spacing::Poisson,
            max_concurrency: vec![1],
            num_warmups: 0,
            goodput: Vec::new(),
            seed: 0,
            request_timeout: Duration::from_secs(30),
            json: Some(folder.path().join("runs.json")),
            save_detailed: false,
            html: Some(folder.path().join("report.html")),
        };
        Self { options, folder, server, table: String::new() }
    }

    async fn run(&mut self, interrupted: impl Future<Output = u8>) -> Result<Ended, ServeError> {
        let mut table = Vec::new();
        let ended = run(&self.options, &Environment::here(), &mut table, interrupted).await;
        self.table = String::from_utf8(table).expect("UTF-8");
        ended
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).expect("written")
    }

    fn runs(&self) -> Vec<Value> {
        let text = self.read("runs.json");
        assert!(text.is_empty() || text.ends_with('\n'), "{text}");
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    }
}

/// Of eight requests half must be done, and half must have failed for this reason.
async fn half_fail(ending: Ending, protocol: Protocol, stream: bool, reason: &str) {
    let mut bench = Bench::of(ending, false, protocol, &["8/4"]).await;
    bench.options.stream = stream;
    let ended = bench.run(pending()).await;
    assert_eq!(ended.expect("half are answered"), Ended::Complete);
    let runs = bench.runs();
    let what = format!("{ending:?}, {protocol:?}: {}", runs[0]);
    assert_eq!((&runs[0]["completed"], &runs[0]["failed"]), (&4.into(), &4.into()), "{what}");
    assert_eq!(runs[0]["failures"].as_array().map(Vec::len), Some(1), "{what}");
    assert_eq!(runs[0]["failures"][0]["count"], 4, "{what}");
    let told = runs[0]["failures"][0]["reason"].as_str().expect("a reason");
    assert!(told.starts_with(reason), "{what}");
    assert!(bench.table.contains(&format!("| 4 × {reason}")), "{}", bench.table);
    assert!(bench.read("report.html").contains(&format!("4 × {reason}")));
    if stream && protocol == Protocol::Generate {
        assert_eq!(runs[0]["total_output_tokens"], 4 * TOKENS, "{what}");
    }
}

#[tokio::test]
async fn broken_streams_count_as_failed() {
    for (ending, of_tgi, of_openai) in [
        (
            Ending::Cut,
            "incomplete answer: `generated_text` is missing",
            "incomplete answer: `finish_reason` is missing",
        ),
        (
            Ending::Empty,
            "incomplete answer: `generated_text` is missing",
            "incomplete answer: `finish_reason` is missing",
        ),
        (Ending::LastMissing, "incomplete answer: `generated_text` is missing", "incomplete answer: `data: [DONE]`"),
        (Ending::ErrorEvent, "error in the answer: Request failed", "error in the answer: Request failed"),
        (Ending::ErrorObject, "error in the answer: engine dead", "error in the answer: engine dead"),
        (Ending::EventError, "error in the answer: engine dead", "error in the answer: engine dead"),
        (Ending::ErrorBody, "error in the answer: x", "error in the answer: x"),
        (Ending::Page, "unexpected answer: ", "unexpected answer: "),
        (Ending::Broken, "the connection broke: ", "the connection broke: "),
    ] {
        half_fail(ending, Protocol::Generate, true, of_tgi).await;
        half_fail(ending, Protocol::Completions, true, of_openai).await;
    }
}

#[tokio::test]
async fn broken_answers_in_one_piece_count_as_failed() {
    for (ending, of_tgi, of_openai) in [
        (
            Ending::Cut,
            "incomplete answer: `generated_text` is missing",
            "incomplete answer: `finish_reason` is missing",
        ),
        (Ending::ErrorBody, "error in the answer: x", "error in the answer: x"),
        (Ending::Page, "unexpected answer: ", "unexpected answer: "),
    ] {
        half_fail(ending, Protocol::Generate, false, of_tgi).await;
        half_fail(ending, Protocol::Completions, false, of_openai).await;
    }
}

#[tokio::test]
async fn complete_answers_count_as_done() {
    for protocol in [Protocol::Generate, Protocol::Completions] {
        for stream in [true, false] {
            let mut bench = Bench::of(Ending::Complete, false, protocol, &["8/4"]).await;
            bench.options.stream = stream;
            bench.run(pending()).await.expect("all are answered");
            let runs = bench.runs();
            assert_eq!((&runs[0]["completed"], &runs[0]["failed"]), (&8.into(), &0.into()), "{}", runs[0]);
            assert_eq!((&runs[0]["failures"], &runs[0]["model_id"]), (&Value::Array(Vec::new()), &"falcon".into()));
            for key in ["date", "command", "version"] {
                assert!(runs[0][key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {}", runs[0]);
            }
            assert!(runs[0]["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{}", runs[0]);
        }
    }
}

#[tokio::test]
async fn a_run_that_fails_does_not_end_a_sweep() {
    let mut bench = Bench::of(Ending::Complete, false, Protocol::Generate, &["8/4", "5000/4", "16/4"]).await;
    let error = bench.run(pending()).await.expect_err("one run has no answer").to_string();
    let expected = "no request was answered in 1 of 3 runs; in 5000/4, 1 at once: 8 × 422 Unprocessable Entity: Input \
                    validation error: `inputs` must have less than 100 tokens. Given: 5000";
    assert_eq!(error, expected);
    let completed: Vec<_> = bench.runs().iter().map(|run| run["completed"].as_u64()).collect();
    assert_eq!(completed, [Some(8), Some(0), Some(8)]);
    for row in ["| 8/4 | 1 at once | 8 / 0 |", "| 5000/4 | 1 at once | 0 / 8 |", "| 16/4 | 1 at once | 8 / 0 |"] {
        assert!(bench.table.contains(row), "{}", bench.table);
    }
    assert!(bench.table.contains("| 5000/4, 1 at once | 8 × 422 Unprocessable Entity: "), "{}", bench.table);
    let page = bench.read("report.html");
    assert!(page.contains("16/4, 1 at once") && page.ends_with("</html>\n"), "{page}");
}

#[tokio::test]
async fn an_interrupted_sweep_keeps_the_runs_before() {
    let mut bench = Bench::of(Ending::Complete, true, Protocol::Completions, &["8/4", "5000/4", "16/4"]).await;
    let server = bench.server.clone();
    let in_second_run = async move {
        server.too_long.notified().await;
        130
    };
    assert_eq!(bench.run(in_second_run).await.expect("no failure"), Ended::Interrupted(130));
    let runs = bench.runs();
    assert_eq!((runs.len(), &runs[0]["completed"]), (1, &8.into()));
    assert!(bench.table.contains("| 8/4 |") && !bench.table.contains("| 5000/4 |"), "{}", bench.table);
    assert!(bench.read("report.html").ends_with("</html>\n"));
}

#[tokio::test]
async fn files_are_opened_before_the_first_request() {
    let mut bench = Bench::of(Ending::Complete, false, Protocol::Generate, &["8/4"]).await;
    bench.options.html = Some(Path::new("/nonexistent/x.html").to_owned());
    // Nobody listens there: the file is told of first.
    bench.options.address = "127.0.0.1:1".to_owned();
    let error = bench.run(pending()).await.expect_err("no such folder").to_string();
    assert!(error.starts_with("/nonexistent/x.html: cannot write: "), "{error}");

    // Results of an earlier benchmark stay if there is no server.
    let earlier = bench.folder.path().join("runs.json");
    std::fs::write(&earlier, "{}\n").expect("a temporary file");
    bench.options.html = None;
    assert_eq!(bench.run(pending()).await.expect_err("no server").to_string(), "--server");
    assert_eq!(bench.read("runs.json"), "{}\n");
}
