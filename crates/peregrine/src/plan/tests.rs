//! Goldens of the published models in `tests/golden/plan`, written anew with `PEREGRINE_BLESS=1`; figures known from
//! elsewhere; errors.

use super::*;
use sizing::{Asked, Backend, NODES, PUBLISHED};
use std::path::Path;

fn args(model: &str) -> PlanArgs {
    PlanArgs {
        model: model.to_owned(),
        hub: HubArgs::default(),
        tensor_parallel: None,
        node: None,
        backend: None,
        sizes: SizeArgs::default(),
        predict: false,
        json: false,
    }
}

fn plan(id: &str, node: &str, world: usize, backend: Backend) -> Plan {
    asked_plan(id, node, world, backend, None)
}

fn asked_plan(id: &str, node: &str, world: usize, backend: Backend, step_rows: Option<u32>) -> Plan {
    let config = Model::open(id, &HubArgs::default()).unwrap().config;
    let site = NodeSite { node: Node::named(node).unwrap(), backend, footprints: &BackendFootprints };
    let others = NODES.each_ref().map(|node| NodeSite { node, ..site });
    let others = others.each_ref().map(|site| (site.node.name, site.node.gpus, site as &dyn Site));
    Plan::new((id, &config), (node, &site), world, &Asked::new(&config, None, step_rows, None), &others)
}

fn error(args: &PlanArgs) -> String {
    format!("{:#}", report(args).unwrap_err())
}

fn check_golden(name: &str, args: &PlanArgs) {
    for json in [true, false] {
        let file = format!("{name}.{}", if json { "json" } else { "txt" });
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan").join(file);
        let report = report(&PlanArgs { json, ..args.clone() }).unwrap();
        if std::env::var_os("PEREGRINE_BLESS").is_some() {
            std::fs::write(&path, &report).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(report, golden, "{}", path.display());
    }
}

#[test]
fn published_models() {
    for id in PUBLISHED.map(|published| published.id) {
        check_golden(id, &args(id));
    }
}

#[test]
fn a_model_that_does_not_fit() {
    let args = PlanArgs { node: Some("p4d.24xlarge".to_owned()), ..args("huggingface-llm-falcon-180b-bf16") };
    check_golden("huggingface-llm-falcon-180b-bf16-on-p4d", &args);
}

#[test]
fn predictions() {
    for id in ["7b", "40b", "180b"].map(|size| format!("huggingface-llm-falcon-{size}-bf16")) {
        check_golden(&format!("{id}-predicted"), &PlanArgs { predict: true, ..args(&id) });
    }
}

/// What is predicted agrees with what was computed elsewhere by hand: floor, target, and stock kernels.
#[test]
fn falcon_180b_in_time() {
    let id = "huggingface-llm-falcon-180b-bf16";
    let plan = plan(id, "p4de.24xlarge", 8, Backend::Cuda);
    let node = Node::named("p4de.24xlarge").unwrap();
    let prediction = Prediction::new(&Model::open(id, &HubArgs::default()).unwrap().config, node, 8, plan.kv_tokens);
    let one = &prediction.decode[0];
    assert!(one.size == 1 && (21.85..21.95).contains(&one.floor_ms), "{one:?}");
    // With what each product takes for any size, as an H100 showed it. Without, it would be 27.9.
    assert!((28.5..29.0).contains(&one.predicted_ms) && one.predicted_ms < one.predicted_at_lower_ms, "{one:?}");
    assert!((31.0..32.5).contains(&one.stock_ms), "{one:?}");
    // What all launches move is what the rank has, less the embedding table: the output projection is read instead.
    let moved: u64 = prediction.launches.iter().map(|launch| launch.times * launch.bytes).sum();
    let config = Model::open(id, &HubArgs::default()).unwrap().config;
    let table = (config.vocab / 8 * config.hidden * 2) as u64;
    let weights = plan.ranks[0].weight_bytes - if config.tied { 0 } else { table };
    assert!((weights..weights + weights / 500).contains(&moved), "{moved} bytes moved, {weights} of weights");
}

#[test]
fn more_work_takes_longer_and_no_step_is_below_its_floor() {
    for id in PUBLISHED.map(|published| published.id) {
        let model = Model::open(id, &HubArgs::default()).unwrap();
        for node in &NODES {
            let plan = plan(id, node.name, node.gpus, Backend::Cuda);
            if !plan.fits {
                continue;
            }
            let prediction = Prediction::new(&model.config, node, node.gpus, plan.kv_tokens);
            for steps in [&prediction.decode, &prediction.prompts] {
                assert!(
                    steps.windows(2).all(|pair| pair[0].predicted_ms < pair[1].predicted_ms),
                    "{id} on {}",
                    node.name
                );
                assert!(steps.iter().all(|step| step.floor_ms < step.predicted_ms && step.floor_ms < step.stock_ms));
            }
        }
    }
}

#[test]
fn falcon_180b_over_8_gpus() {
    let plan = asked_plan("huggingface-llm-falcon-180b-bf16", "p4de.24xlarge", 8, Backend::Cuda, Some(2048));
    assert!(plan.fits);
    for rank in &plan.ranks {
        let [first, end] = rank.q_heads;
        assert_eq!((first, end), (rank.rank * 29, (rank.rank + 1) * 29));
        assert_eq!(rank.kv_heads, [rank.rank, rank.rank + 1]);
        assert!((44_600_000_000..44_900_000_000).contains(&rank.weight_bytes), "{}", rank.weight_bytes);
        assert_eq!(rank.kv_bytes_per_token, 20_480);
    }
    // About 85 GB, less 44.7 GB of weights, 3.3 GB of reserve, and 1.5 GB for steps.
    assert!((1_700_000..1_850_000).contains(&plan.kv_tokens), "{}", plan.kv_tokens);
}

#[test]
fn falcon_7b_covers_its_71_heads_at_any_degree() {
    for world in [2, 4, 8] {
        let plan = plan("huggingface-llm-falcon-7b-bf16", "p4d.24xlarge", world, Backend::Cuda);
        assert!(plan.fits, "{world} ranks");
        let ends = plan.ranks.iter().map(|rank| rank.q_heads[1]);
        let starts: Vec<usize> = plan.ranks.iter().map(|rank| rank.q_heads[0]).chain([71]).collect();
        assert_eq!([0].into_iter().chain(ends).collect::<Vec<_>>(), starts);
        assert!(plan.ranks.iter().all(|rank| rank.kv_heads == [0, 1]));
    }
}

#[test]
fn what_would_fit_is_the_smallest_degree_of_each_node() {
    let plan = plan("huggingface-llm-falcon-180b-bf16", "p4d.24xlarge", 8, Backend::Cuda);
    let fits: Vec<(&str, usize)> = plan.would_fit.iter().map(|fit| (fit.node, fit.tensor_parallel)).collect();
    assert!(!plan.fits);
    assert_eq!(fits, [("g6e.48xlarge", 8), ("p4de.24xlarge", 8), ("p5.48xlarge", 8), ("p5en.48xlarge", 4)]);
}

#[test]
fn bytes_short_are_the_border_of_fitting() {
    let model = Model::open("huggingface-llm-falcon-180b-bf16", &HubArgs::default()).unwrap();
    for node in &NODES {
        for world in 1..=node.gpus {
            let plan = plan(&model.name, node.name, world, Backend::Cuda);
            let short = plan.ranks.iter().map(|rank| rank.short_by_bytes).max().unwrap();
            assert!(plan.kv_tokens >= plan.sequence_tokens && plan.fits == (short == 0), "{} {world}", node.name);
        }
    }
}

#[test]
fn the_cpu_stores_twice_the_bytes_in_the_memory_of_the_host() {
    let of = |backend| plan("huggingface-llm-falcon-40b-bf16", "p4de.24xlarge", 8, backend);
    let (cuda, cpu) = (of(Backend::Cuda), of(Backend::Cpu));
    assert_eq!(cpu.ranks[0].kv_bytes_per_token, 2 * cuda.ranks[0].kv_bytes_per_token);
    // Tiles are padded otherwise than rows.
    let (on_cpu, on_gpu) = (cpu.ranks[0].weight_bytes, cuda.ranks[0].weight_bytes);
    assert!(on_cpu.abs_diff(on_gpu) < on_gpu / 100, "{on_cpu} {on_gpu}");
    assert_eq!(cpu.memory_bytes, (1152 << 30) / 10 * 9 / 8);
}

/// The smallest test model has fewer heads than ranks; those without heads set no limit.
#[test]
fn ranks_without_heads() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/tiny-falcon-7b");
    let plan = plan(dir, models::FOLDER_NODE, 8, Backend::Cuda);
    let (without, with): (Vec<_>, Vec<_>) = plan.ranks.iter().partition(|rank| rank.kv_bytes_per_token == 0);
    assert_eq!((without.len(), with.len()), (3, 5));
    assert!(plan.fits && without.iter().all(|rank| rank.kv_heads == [0, 0] && rank.kv_bytes == 0));
}

#[test]
fn errors_say_what_would_do() {
    let id = "huggingface-llm-falcon-7b-bf16";
    let unknown = error(&args("falcon-7b"));
    assert!(
        unknown.contains("there is no such folder") && PUBLISHED.iter().all(|published| unknown.contains(published.id)),
        "{unknown}"
    );

    let unknown = error(&PlanArgs { node: Some("p3.2xlarge".to_owned()), ..args(id) });
    assert!(unknown.contains("p3.2xlarge") && NODES.iter().all(|node| unknown.contains(node.name)), "{unknown}");

    for world in [0, 2] {
        let found = error(&PlanArgs { tensor_parallel: Some(world), ..args(id) });
        assert_eq!(
            found,
            format!("--tensor-parallel is {world}, expected 1 to 1: the 1 GPUs (A10G-24GB) of g5.2xlarge")
        );
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert!(error(&args(path)).contains("config.json"));
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "falcon"}"#).unwrap();
    let found = error(&args(path));
    assert!(found.contains("config.json") && found.contains("hidden_size"), "{found}");
}

#[test]
fn this_machine_is_planned_for_as_serve_sizes_itself() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/tiny-falcon-7b");
    let local = PlanArgs { node: Some("local".to_owned()), backend: Some(super::Backend::Cpu), ..args(dir) };
    let text = report(&local).unwrap();
    for part in [
        "tiny-falcon-7b on local: fits",
        "tensor-parallel 1 on the CPUs (",
        "16,384 tokens",
        "--backend cpu --tensor-parallel 1\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&report(&PlanArgs { json: true, ..local.clone() }).unwrap()).unwrap();
    assert_eq!(json["kv_tokens"], 16_384);
    assert!(json["serve"].as_str().unwrap().starts_with("peregrine serve --model "), "{json}");
    // A KV cache that cannot be is refused with what would.
    let text =
        report(&PlanArgs { sizes: SizeArgs { kv_tokens: Some(1 << 30), ..SizeArgs::default() }, ..local }).unwrap();
    assert!(
        text.contains("does not fit") && text.contains("--kv-tokens up to ") && !text.contains("peregrine serve"),
        "{text}"
    );
}

#[test]
fn words_are_quoted_for_a_shell_where_they_must_be() {
    assert_eq!(["/a/b-c", "a b", "it's", ""].map(shell_word), ["/a/b-c", "'a b'", r"'it'\''s'", "''"]);
}
