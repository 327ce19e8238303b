//! What must hold of any simulation, and figures that are known from elsewhere.

use super::report::Plan;
use super::*;
use roofline::Kernels;
use sizing::{Node, Published};

fn plan(requests: usize) -> Plan {
    let published = Published::find("huggingface-llm-falcon-180b-bf16").expect("it is published");
    let (config, node) = (published.config(), Node::named(published.node).expect("it is known"));
    Plan {
        name: published.id.to_owned(),
        config,
        node,
        world: 8,
        // About what is left there beside the weights.
        kv_tokens: 1_750_000,
        step_rows_max: 2048,
        sequences_max: 1024,
        requests,
    }
}

fn simulate(plan: &Plan, workload: Workload) -> Outcome {
    run(&plan.setup(Kernels::Own), &workload).expect("it can run")
}

#[test]
fn one_request_takes_what_its_steps_take() {
    let plan = plan(1);
    let outcome = simulate(&plan, Workload { input: 100, output: 3, requests: 1, concurrency: 1 });
    let timing = plan.setup(Kernels::Own).timing;
    let steps = [Batch::prompt(100), Batch::decode(1, 100), Batch::decode(1, 101)];
    let seconds: f64 = steps.iter().map(|batch| timing.step_seconds(batch)).sum();
    assert!((outcome.seconds - seconds).abs() < 1e-9, "{} {seconds}", outcome.seconds);
    assert_eq!((outcome.steps, outcome.ttft_ms.values().len(), outcome.itl_ms.values().len()), (3, 1, 2));
    assert!((outcome.ttft_ms.mean() - timing.step_seconds(&steps[0]) * 1e3).abs() < 1e-9);
}

#[test]
fn every_request_gets_all_its_tokens_and_every_share_is_counted() {
    let workload = Workload { input: 300, output: 20, requests: 70, concurrency: 30 };
    let outcome = simulate(&plan(1), workload);
    assert_eq!(outcome.ttft_ms.values().len(), 70);
    assert_eq!(outcome.itl_ms.values().len(), 70 * 19);
    assert!((outcome.output_throughput - 1400.0 / outcome.seconds).abs() < 1e-6);
    let shares: f64 = outcome.shares.iter().map(|(_, share)| share).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{:?}", outcome.shares);
    // The same again: nothing is drawn.
    assert_eq!(outcome.seconds.to_bits(), simulate(&plan(1), workload).seconds.to_bits());
}

#[test]
fn more_at_once_is_more_throughput_and_longer_steps() {
    let at =
        |concurrency| simulate(&plan(1), Workload { input: 128, output: 128, requests: 3 * concurrency, concurrency });
    let [one, eight, many] = [1, 8, 64].map(at);
    assert!(one.output_throughput < eight.output_throughput && eight.output_throughput < many.output_throughput);
    assert!(one.itl_ms.median() < eight.itl_ms.median() && eight.itl_ms.median() < many.itl_ms.median());
    // A floor of 21.9 ms a token; stock kernels would take 31.6.
    assert!((21.9..31.6).contains(&one.itl_ms.median()), "{}", one.itl_ms.median());
}

#[test]
fn the_report_has_every_shape_and_every_published_figure() {
    let simulation = super::simulate(&plan(40)).expect("it can run");
    let (markdown, json) = (simulation.markdown(), simulation.json());
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["throughput"].as_array().map(Vec::len), Some(4));
    assert_eq!(json["latency"].as_array().map(Vec::len), Some(16));
    assert_eq!(json["checks"].as_array().map(Vec::len), Some(9));
    for expected in ["SIMULATED", "128/1920", "2172 (128/128)", "JumpStart", "what an H100 took"] {
        assert!(markdown.contains(expected), "{expected}:\n{markdown}");
    }
}

#[test]
fn a_request_that_has_no_room_is_refused() {
    let plan = Plan { kv_tokens: 64, ..plan(1) };
    let refused = run(&plan.setup(Kernels::Own), &Workload { input: 100, output: 3, requests: 1, concurrency: 1 });
    assert!(matches!(refused, Err(SubmitError::TooLong { .. })), "{refused:?}");
}
