//! What every crate's manifest and `lib.rs` must say.

use super::tree::Tree;
use toml::{Table, Value};

/// Keys that a crate takes from the workspace.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, text) in tree.manifests() {
        match text.parse::<Table>() {
            Ok(manifest) => check_manifest(name, &manifest, &mut violations),
            Err(error) => violations.push(format!("crates/{name}/Cargo.toml: {error}")),
        }
    }
    for (path, text) in tree.texts("/src/lib.rs") {
        if !text.starts_with("//!") {
            violations.push(format!("{path}: expected `//!` in the first line, what the crate is"));
        }
    }
    violations
}

fn check_manifest(name: &str, manifest: &Table, violations: &mut Vec<String>) {
    let package = |key: &str| manifest.get("package")?.get(key);
    let inherits =
        |value: Option<&Value>| value.and_then(|value| value.get("workspace")) == Some(&Value::Boolean(true));
    for key in INHERITED.iter().filter(|key| !inherits(package(key))) {
        violations.push(format!("crates/{name}/Cargo.toml: expected `{key}.workspace = true` in [package]"));
    }
    // Whatever one package of a build asks for, all others get, and with it what ships.
    if manifest.contains_key("features") {
        violations.push(format!("crates/{name}/Cargo.toml: expected no [features]"));
    }
    if !inherits(manifest.get("lints")) {
        violations.push(format!("crates/{name}/Cargo.toml: expected `workspace = true` in [lints]"));
    }
    if package("name").and_then(Value::as_str) != Some(name) {
        violations
            .push(format!("crates/{name}/Cargo.toml: expected the directory's name, `{name}`, as that of the package"));
    }
    if package("description").and_then(Value::as_str).is_none_or(str::is_empty) {
        violations.push(format!("crates/{name}/Cargo.toml: expected a `description`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "[package]
name = 'a'
description = 'A.'
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true
[lints]
workspace = true
";

    fn violations(manifest: &str) -> Vec<String> {
        check(&Tree::of(&[("crates/a/Cargo.toml", manifest), ("Cargo.toml", "[workspace]")]))
    }

    #[test]
    fn manifests_say_all_that_they_must() {
        assert!(violations(CLEAN).is_empty());
        for line in CLEAN.lines().filter(|line| line.contains('=')) {
            assert_eq!(violations(&CLEAN.replacen(line, "", 1)).len(), 1, "without {line}");
        }
        assert_eq!(violations(&CLEAN.replace("license.workspace = true", "license = 'MIT'")).len(), 1);
        assert_eq!(violations(&CLEAN.replace("'A.'", "''")).len(), 1);
        assert_eq!(violations(&format!("{CLEAN}[features]\nfast = []\n")).len(), 1);
        assert_eq!(violations("[package").len(), 1);
    }

    #[test]
    fn a_lib_opens_with_what_it_is() {
        assert!(check(&Tree::of(&[("crates/a/src/lib.rs", "//! A.\n")])).is_empty());
        assert_eq!(check(&Tree::of(&[("crates/a/src/lib.rs", "mod b;\n")])).len(), 1);
    }
}
