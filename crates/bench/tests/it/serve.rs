//! `bench serve` against servers some of whose answers are broken.

use crate::stand_in::{Behaviour, Ending, TOKENS, start};
use bench::serve::{ServeError, ServeOptions, Spacing, run};
use bench::{Dialect, Ended, Environment, TargetOptions};
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
    async fn of(ending: Ending, hangs: bool, dialect: Dialect, datasets: &[&str]) -> Self {
        let (address, server) = start(ending, hangs).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let limit = Duration::from_secs(30);
        let target = TargetOptions { address, dialect, model: None, api_key: None, ca: None, stream: true, limit };
        let options = ServeOptions {
            target,
            datasets: datasets.iter().map(|dataset| dataset.parse().expect("a dataset")).collect(),
            num_prompts: 8,
            request_rates: vec![f64::INFINITY],
            spacing: Spacing::Poisson,
            max_concurrency: vec![1],
            num_warmups: 0,
            goodput: Vec::new(),
            seed: 0,
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
async fn half_fail(ending: Ending, dialect: Dialect, stream: bool, reason: &str) {
    let mut bench = Bench::of(ending, false, dialect, &["8/4"]).await;
    bench.options.target.stream = stream;
    let ended = bench.run(pending()).await;
    assert_eq!(ended.expect("half are answered"), Ended::Complete);
    let runs = bench.runs();
    let what = format!("{ending:?}, {dialect:?}: {}", runs[0]);
    assert_eq!((&runs[0]["completed"], &runs[0]["failed"]), (&4.into(), &4.into()), "{what}");
    assert_eq!(runs[0]["failures"].as_array().map(Vec::len), Some(1), "{what}");
    assert_eq!(runs[0]["failures"][0]["count"], 4, "{what}");
    let told = runs[0]["failures"][0]["reason"].as_str().expect("a reason");
    assert!(told.starts_with(reason), "{what}");
    assert!(bench.table.contains(&format!("| 4 × {reason}")), "{}", bench.table);
    assert!(bench.read("report.html").contains(&format!("4 × {reason}")));
    if stream {
        assert_eq!(runs[0]["total_output_tokens"], 4 * TOKENS, "{what}");
    }
}

fn over_http() -> impl Iterator<Item = Dialect> {
    Dialect::ALL.into_iter().filter(|&dialect| dialect != Dialect::Grpc)
}

/// The key, or the event, without which an answer is not complete.
fn last_key(dialect: Dialect) -> &'static str {
    if is_openai(dialect) { "`finish_reason`" } else { "`generated_text`" }
}

fn is_openai(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::OpenAi | Dialect::OpenAiChat)
}

#[tokio::test]
async fn broken_streams_count_as_failed() {
    for dialect in over_http() {
        let cut = format!("incomplete answer: {} is missing", last_key(dialect));
        let last = if is_openai(dialect) { "incomplete answer: `data: [DONE]` is missing" } else { &cut };
        for (ending, reason) in [
            (Ending::Cut, &*cut),
            (Ending::Empty, &cut),
            (Ending::LastMissing, last),
            (Ending::BlankLineMissing, last),
            (Ending::ErrorEvent, "error in the answer: Request failed"),
            (Ending::ErrorObject, "error in the answer: engine dead"),
            (Ending::EventError, "error in the answer: engine dead"),
            (Ending::EventOfTgi, "error in the answer: engine dead"),
            (Ending::EventOfOpenAi, "error in the answer: engine dead"),
            (Ending::EventWithoutData, "error in the answer: an event without data"),
            (Ending::ErrorBody, "error in the answer: x"),
            (Ending::Page, "unexpected answer: "),
            (Ending::Broken, "the connection broke: "),
            (Ending::BrokenAtEnd, "the connection broke: "),
        ] {
            half_fail(ending, dialect, true, reason).await;
        }
    }
}

#[tokio::test]
async fn broken_frames_count_as_failed() {
    for (ending, reason) in [
        (Ending::Exception, "error in the answer: ModelStreamError: engine dead"),
        (Ending::Checksum, "unexpected answer: a frame: message checksum "),
        (Ending::HalfFrame, "incomplete answer: the rest of a frame is missing"),
    ] {
        half_fail(ending, Dialect::SageMakerRuntime, true, reason).await;
    }
}

#[tokio::test]
async fn broken_answers_in_one_piece_count_as_failed() {
    for dialect in over_http() {
        let cut = format!("incomplete answer: {} is missing", last_key(dialect));
        for (ending, reason) in
            [(Ending::Cut, &*cut), (Ending::ErrorBody, "error in the answer: x"), (Ending::Page, "unexpected answer: ")]
        {
            half_fail(ending, dialect, false, reason).await;
        }
    }
}

#[tokio::test]
async fn complete_answers_count_as_done() {
    for dialect in over_http() {
        for stream in [true, false] {
            let mut bench = Bench::of(Ending::Complete, false, dialect, &["8/4"]).await;
            bench.options.target.stream = stream;
            bench.run(pending()).await.expect("all are answered");
            let runs = bench.runs();
            assert_eq!((&runs[0]["completed"], &runs[0]["failed"]), (&8.into(), &0.into()), "{}", runs[0]);
            assert_eq!((&runs[0]["failures"], &runs[0]["model_id"]), (&Value::Array(Vec::new()), &"falcon".into()));
            assert_eq!(runs[0]["endpoint_type"], dialect.name());
            for key in ["date", "command", "version"] {
                assert!(runs[0][key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {}", runs[0]);
            }
            assert!(runs[0]["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{}", runs[0]);
            // The stand-in counts in TGI's whole answers alone.
            let by_server = if stream || is_openai(dialect) { 0 } else { 8 };
            assert_eq!(runs[0]["completed_counted_by_server"], by_server);
            let counted = match by_server {
                0 => "Output tokens: counted by the server in 0 answers, one for each message with text in 8.\n",
                _ => "Output tokens: counted by the server.\n",
            };
            assert!(bench.table.contains(counted), "{}", bench.table);
        }
    }
}

#[tokio::test]
async fn a_run_that_fails_does_not_end_a_sweep() {
    let mut bench = Bench::of(Ending::Complete, false, Dialect::Tgi, &["8/4", "5000/4", "16/4"]).await;
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
    let mut bench = Bench::of(Ending::Complete, true, Dialect::OpenAi, &["8/4", "5000/4", "16/4"]).await;
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
    let mut bench = Bench::of(Ending::Complete, false, Dialect::Tgi, &["8/4"]).await;
    bench.options.html = Some(Path::new("/nonexistent/x.html").to_owned());
    // Nobody listens there: the file is told of first.
    bench.options.target.address = "127.0.0.1:1".to_owned();
    let error = bench.run(pending()).await.expect_err("no such folder").to_string();
    assert!(error.starts_with("/nonexistent/x.html: cannot write: "), "{error}");

    // Results of an earlier benchmark stay if there is no server.
    let earlier = bench.folder.path().join("runs.json");
    std::fs::write(&earlier, "{}\n").expect("a temporary file");
    bench.options.html = None;
    assert_eq!(bench.run(pending()).await.expect_err("no server").to_string(), "--server");
    assert_eq!(bench.read("runs.json"), "{}\n");
}
