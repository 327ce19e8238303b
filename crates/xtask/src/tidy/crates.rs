//! The table of crates: what each is, and what it may depend on. ARCHITECTURE.md shows it; `cargo xtask architecture` writes
//! it there.

use super::tree::Tree;
use anyhow::Context;
use std::path::Path;
use std::process::ExitCode;

/// One of our crates.
pub(super) struct Crate {
    pub(super) name: &'static str,
    /// What it is, in the table's words.
    what: &'static str,
    /// What it may depend on. Dev-dependencies are free, as they do not ship.
    pub(super) uses: Uses,
}

/// What a crate may depend on.
pub(super) enum Uses {
    /// All that the rules about crates of others allow.
    Everything,
    /// These of ours.
    Only(&'static [&'static str]),
}
use Uses::{Everything, Only};

/// All of them, in the order in which a reader is to meet them.
pub(super) const CRATES: &[Crate] = &[
    Crate {
        name: "model",
        what: "what Falcon is: config.json, tensor names and shapes, head ranges, THE shard table",
        uses: Only(&[]),
    },
    Crate { name: "step", what: "the contract between scheduler and workers, plain data", uses: Only(&[]) },
    Crate {
        name: "api",
        what: "what a request asks for and is answered with, in no protocol's words, and its validation",
        uses: Only(&["step", "text"]),
    },
    Crate {
        name: "scheduler",
        what: "continuous batching as a pure state machine, and the pool of KV blocks",
        uses: Only(&["step"]),
    },
    Crate {
        name: "sampling",
        what: "logits processors, seeded draws, watermark: the reference for every backend",
        uses: Only(&["step"]),
    },
    Crate {
        name: "text",
        what: "tokenizer, ends of a text, incremental detokenizer, stop strings, chat templates",
        uses: Only(&[]),
    },
    Crate { name: "timeouts", what: "clocks that stand still in a pause, limits of a step, polling", uses: Only(&[]) },
    Crate {
        name: "source",
        what: "where a model's files are: a folder, or the Hugging Face hub and its cache; brings them to a folder",
        uses: Only(&[]),
    },
    Crate { name: "weights", what: "safetensors over mmap: a rank's byte runs", uses: Only(&["model"]) },
    Crate {
        name: "backend",
        what: "the `Backend` and `Collective` traits, and the plain reference",
        uses: Only(&["sampling", "step"]),
    },
    Crate {
        name: "backend-cpu",
        what: "vectorized kernels, thread pool, collective over shared memory",
        uses: Only(&["backend", "sampling", "step", "timeouts"]),
    },
    Crate {
        name: "backend-cuda",
        what: "NVIDIA GPUs: launches of `kernels/`, cuBLASLt, NCCL, access between peers; all opened at run time",
        uses: Only(&["backend", "sampling", "step", "timeouts"]),
    },
    Crate {
        name: "forward",
        what: "the forward pass, once, generic over the backend; steps to batches",
        uses: Only(&["backend", "model", "step"]),
    },
    Crate {
        name: "sizing",
        what: "what a rank needs, by its backend's own formulas; what fits into given memory; a model's plan on a machine",
        uses: Only(&["backend", "forward", "model", "step"]),
    },
    Crate {
        name: "roofline",
        what: "the predicted time of a step, launch by launch, from bytes and published rates",
        uses: Only(&["model", "sizing"]),
    },
    Crate {
        name: "wire",
        what: "generated gRPC types, their fallible conversions, and how a connection begins",
        uses: Only(&["step"]),
    },
    Crate {
        name: "worker",
        what: "one rank: the thread that owns the device, the control service",
        uses: Only(&["backend", "forward", "model", "step", "timeouts", "weights", "wire"]),
    },
    Crate {
        name: "coordinator",
        what: "the fleet of workers and the loop that drives them",
        uses: Only(&["scheduler", "step", "timeouts", "wire"]),
    },
    Crate {
        name: "server",
        what: "one `Service`, and the dialects in which it is spoken to: gRPC, TGI, OpenAI, SageMaker",
        uses: Only(&["api", "coordinator", "step", "text", "wire"]),
    },
    Crate {
        name: "runtime",
        what: "assembles a running model: how much fits, the workers, the choice of the backend; the demo model",
        uses: Only(&[
            "api",
            "backend",
            "backend-cpu",
            "backend-cuda",
            "coordinator",
            "forward",
            "model",
            "server",
            "sizing",
            "step",
            "text",
            "weights",
            "worker",
        ]),
    },
    Crate {
        name: "bench",
        what: "all benchmarks: load on a server with its reports, an engine, a backend, the scheduler alone and by the clock of \
               `roofline`",
        uses: Only(&[
            "backend",
            "backend-cpu",
            "coordinator",
            "forward",
            "model",
            "roofline",
            "runtime",
            "scheduler",
            "server",
            "sizing",
            "step",
            "testkit",
            "weights",
            "wire",
        ]),
    },
    Crate { name: "peregrine", what: "the binary: arguments, signals and output", uses: Everything },
    Crate {
        name: "amx-standin",
        what: "the matrix unit's instructions on a CPU without one; for tests",
        uses: Only(&["backend-cpu"]),
    },
    Crate {
        name: "cuda-standin",
        what: "libraries in place of CUDA's, which run the kernels' PTX on the CPU; for tests",
        uses: Only(&[]),
    },
    Crate {
        name: "testkit",
        what: "the conformance suite, the results of an independent implementation, ranks on threads, for tests; random weights, \
               for `bench` and `gpu-check`, too",
        uses: Only(&["backend", "forward", "model", "sampling", "step"]),
    },
    Crate { name: "gpu-check", what: "checks and measures the CUDA backend on a machine with a GPU", uses: Everything },
    Crate {
        name: "xtask",
        what: "repository rules as code, the full golden run, bugs planted in kernels, the bundle of `gpu-check`",
        uses: Only(&[]),
    },
];

const PAGE: &str = "ARCHITECTURE.md";
const BEGIN: &str = "<!-- crates: written by `cargo xtask architecture` -->\n";
const END: &str = "<!-- end of crates -->\n";

/// The table as the page shows it.
fn table() -> String {
    let mut text = "| crate | what it is | depends on |\n|---|---|---|\n".to_owned();
    for Crate { name, what, uses } in CRATES {
        let uses = match uses {
            Everything => "all".to_owned(),
            Only([]) => "–".to_owned(),
            Only(names) => names.join(", "),
        };
        text += &format!("| `{name}` | {what} | {uses} |\n");
    }
    text
}

/// The page with the table between its marks; `None` if it has not both of them.
fn with_table(page: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some([before, BEGIN, &table(), END, after].concat())
}

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let Some((_, page)) = tree.texts(PAGE).find(|(path, _)| *path == PAGE) else {
        return vec![format!("{PAGE} is not there")];
    };
    match with_table(page) {
        None => vec![format!("{PAGE}: expected the table of crates between {:?} and {:?}", BEGIN.trim(), END.trim())],
        Some(expected) if expected != page => {
            vec![format!("{PAGE}: the table of crates is not that of xtask; run `cargo xtask architecture`")]
        }
        Some(_) => Vec::new(),
    }
}

/// `cargo xtask architecture`: writes the table of crates into ARCHITECTURE.md.
pub fn write(root: &Path, arguments: &[String]) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(arguments.is_empty(), "architecture takes no arguments, found {arguments:?}");
    let path = root.join(PAGE);
    let page = std::fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    let page = with_table(&page).with_context(|| format!("{PAGE} lacks {:?} or {:?}", BEGIN.trim(), END.trim()))?;
    std::fs::write(&path, page).with_context(|| format!("writing {PAGE}"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_table() {
        let page = format!("# Architecture\n\n{BEGIN}old\n{END}\nmore\n");
        let written = with_table(&page).expect("both marks");
        assert!(written.starts_with("# Architecture\n\n<!--") && written.ends_with("\nmore\n"), "{written}");
        assert!(written.contains("| `weights` | safetensors over mmap: a rank's byte runs | model |\n"), "{written}");
        assert!(check(&Tree::of(&[(PAGE, &written)])).is_empty());
        for wrong in [&page[..], "# Architecture\n", &written.replace("| model |", "| model, wire |")] {
            assert_eq!(check(&Tree::of(&[(PAGE, wrong)])).len(), 1, "{wrong}");
        }
        assert_eq!(check(&Tree::of(&[])).len(), 1);
    }

    #[test]
    fn arrows_lead_to_crates_of_the_table_and_never_in_a_circle() {
        fn visit<'a>(name: &'a str, path: &mut Vec<&'a str>) {
            assert!(!path.contains(&name), "{name} depends on itself: {path:?}");
            let found = CRATES.iter().find(|known| known.name == name).unwrap_or_else(|| panic!("no crate {name}"));
            path.push(name);
            if let Only(uses) = found.uses {
                uses.iter().for_each(|used| visit(used, path));
            }
            path.pop();
        }
        CRATES.iter().for_each(|known| visit(known.name, &mut Vec::new()));
    }
}
