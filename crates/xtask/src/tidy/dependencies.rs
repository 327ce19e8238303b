//! Each crate depends on what the table of crates says, and on no more. Dev-dependencies are free, as they do not ship.

use super::crates::{CRATES, Uses};
use super::tree::Tree;
use toml::Table;

/// Crates that only some of ours may see.
const ONLY: &[(&str, &[&str])] = &[
    // For tests; measuring tools take their random weights from the first.
    ("testkit", &["bench", "gpu-check"]),
    ("amx-standin", &[]),
    ("cuda-standin", &[]),
    ("cudarc", &["backend-cuda"]),
    ("nvml-wrapper", &["peregrine"]),
    ("prost", &["wire"]),
    ("tonic-prost", &["wire"]),
    ("tonic-prost-build", &["wire"]),
];

/// Crates that are state machines or plain data, and what they must not see: sockets and clocks.
const PURE: &[&str] = &["model", "sizing", "roofline", "step", "api", "scheduler", "sampling"];
const IMPURE: &[&str] = &["tokio", "tonic"];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, manifest) in tree.manifests() {
        let Some(known) = CRATES.iter().find(|known| known.name == name) else {
            violations.push(format!("crate `{name}` is not in the table of crates"));
            continue;
        };
        // What is no TOML is cargo's to report.
        let manifest: Table = manifest.parse().unwrap_or_default();
        let dependencies = dependencies(&manifest);
        if let Uses::Only(allowed) = known.uses {
            for unused in allowed.iter().filter(|allowed| !dependencies.iter().any(|used| used == *allowed)) {
                violations.push(format!("`{name}` does not depend on `{unused}`, as the table of crates says"));
            }
            for dependency in &dependencies {
                let is_ours = CRATES.iter().any(|ours| ours.name == dependency);
                if is_ours && !allowed.contains(&&**dependency) {
                    violations.push(format!("`{name}` must not depend on `{dependency}`, but on {allowed:?} alone"));
                }
            }
        }
        for dependency in dependencies {
            let only = ONLY.iter().find(|(theirs, _)| *theirs == dependency);
            if let Some((_, users)) = only.filter(|(_, users)| !users.contains(&name)) {
                violations.push(format!("`{name}` must not depend on `{dependency}`: only {users:?} may"));
            }
            if PURE.contains(&name) && IMPURE.contains(&&*dependency) {
                violations.push(format!("`{name}` must not depend on `{dependency}`: it is pure"));
            }
        }
    }
    violations
}

/// Names of the packages that a crate is built with, on any target.
fn dependencies(manifest: &Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(|targets| targets.as_table());
    let targets = targets.into_iter().flat_map(|targets| targets.values()).filter_map(|target| target.as_table());
    let mut names = Vec::new();
    for table in targets.chain([manifest]) {
        for kind in ["dependencies", "build-dependencies"] {
            for (name, value) in table.get(kind).and_then(|table| table.as_table()).into_iter().flatten() {
                let renamed = value.get("package").and_then(|package| package.as_str());
                names.push(renamed.unwrap_or(name).to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a manifest, apart from what it lacks.
    fn violations(name: &str, manifest: &str) -> Vec<String> {
        let mut all = check(&Tree::of(&[(&format!("crates/{name}/Cargo.toml"), manifest)]));
        all.retain(|violation| !violation.contains("does not depend on"));
        all
    }

    #[test]
    fn arrows_must_be_in_the_table() {
        assert!(violations("scheduler", "[dependencies]\nstep.workspace = true\nthiserror = '2'").is_empty());
        let [violation] = &violations("scheduler", "[dependencies]\nmodel.workspace = true")[..] else { panic!() };
        assert!(violation.contains("`scheduler` must not depend on `model`"), "{violation}");
        assert_eq!(violations("step", "[build-dependencies]\napi = '1'").len(), 1);
        assert_eq!(violations("step", "[target.'cfg(unix)'.dependencies]\napi = '1'").len(), 1);
        assert_eq!(violations("step", "[dependencies]\nx = { package = 'api', version = '1' }").len(), 1);
        assert_eq!(violations("newcomer", "").len(), 1);
    }

    #[test]
    fn arrows_of_the_table_must_be_there() {
        let of = |manifest| check(&Tree::of(&[("crates/scheduler/Cargo.toml", manifest)]));
        assert!(of("[dependencies]\nstep = '1'").is_empty());
        assert_eq!(of(""), ["`scheduler` does not depend on `step`, as the table of crates says"]);
    }

    #[test]
    fn the_binary_may_see_all_and_tests_too() {
        assert!(violations("peregrine", "[dependencies]\nscheduler = '1'\nmodel = '1'").is_empty());
        assert!(violations("scheduler", "[dev-dependencies]\nserver = '1'\ntokio = '1'").is_empty());
    }

    #[test]
    fn some_crates_are_seen_by_few() {
        assert!(violations("backend-cuda", "[dependencies]\ncudarc = '1'").is_empty());
        assert!(
            violations("wire", "[dependencies]\nprost = '1'\n[build-dependencies]\ntonic-prost-build = '1'").is_empty()
        );
        assert_eq!(violations("peregrine", "[dependencies]\ncudarc = '1'").len(), 1);
        assert_eq!(violations("peregrine", "[dependencies]\ntestkit = '1'\namx-standin = '1'").len(), 2);
        assert!(violations("gpu-check", "[dependencies]\ntestkit = '1'").is_empty());
        assert_eq!(violations("server", "[dependencies]\nprost = '1'\ntonic-prost = '1'\ntonic = '1'").len(), 2);
        for pure in PURE {
            assert_eq!(violations(pure, "[dependencies]\ntokio = '1'\ntonic = '1'").len(), 2, "{pure}");
        }
    }
}
