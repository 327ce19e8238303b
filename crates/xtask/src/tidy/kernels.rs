//! Each CUDA kernel has its PTX, a wrapper of the same name, a plain reference, and a case in the conformance suite.

use super::tree::Tree;

/// Sources in `kernels/`, without `.cu`, and the operations of the `Backend` trait that launch them: each of these has a
/// reference, or a default that is made of those that have one, and a case.
const KERNELS: &[(&str, &[&str])] = &[
    ("all_reduce", &["all_reduce", "all_reduce_add"]),
    ("attention", &["attend"]),
    ("embed", &["embed"]),
    ("gather", &["sample_or_score"]),
    ("gelu", &["gelu"]),
    ("norm", &["layer_norm"]),
    ("norm_product", &["norm_linear", "select_norm_linear"]),
    // Serves no operation: others are measured by it, and its test is beside the backend.
    ("plain_read", &[]),
    ("prefill_attention", &["attend"]),
    ("product", &["linear", "linear_add", "dense_and_down"]),
    ("rotate_store", &["attend"]),
    ("sample", &["sample_or_score"]),
];

const WRAPPERS: &str = "crates/backend-cuda/src/kernels/";
const REFERENCES: [&str; 2] = ["crates/backend/src/reference.rs", "crates/backend/src/traits.rs"];
const CASES: &str = "crates/testkit/src/conformance/";

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    let names = |folder: &'static str, ending: &'static str| {
        let paths = tree.texts(ending).map(move |(path, text)| (path.strip_prefix(folder), text));
        paths.filter_map(move |(name, text)| Some((name?.strip_suffix(ending)?.to_owned(), text)))
    };
    let sources: Vec<String> = names("kernels/", ".cu").map(|(name, _)| name).collect();
    for name in &sources {
        if !KERNELS.iter().any(|(kernel, _)| kernel == name) {
            violations.push(format!("kernels/{name}.cu is not in the table of kernels and their operations"));
        }
    }
    for wrapper in names(WRAPPERS, ".rs").map(|(name, _)| name).filter(|name| !sources.contains(name)) {
        violations.push(format!("{WRAPPERS}{wrapper}.rs wraps no kernels/{wrapper}.cu"));
    }
    for (kernel, operations) in KERNELS {
        if !sources.contains(&(*kernel).to_owned()) {
            violations.push(format!("the table has kernels/{kernel}.cu, which is not there"));
            continue;
        }
        if !tree.files.iter().any(|file| file.path == format!("kernels/ptx/{kernel}.ptx")) {
            violations.push(format!("kernels/{kernel}.cu has no PTX; run scripts/build-kernels"));
        }
        let loads = format!("kernels/ptx/{kernel}.ptx\"");
        if !names(WRAPPERS, ".rs").any(|(name, text)| name == *kernel && text.contains(&loads)) {
            violations.push(format!("kernels/{kernel}.cu has no wrapper {WRAPPERS}{kernel}.rs that loads its PTX"));
        }
        for operation in *operations {
            let any =
                |text: &str, of: &str| tree.texts(".rs").any(|(path, t)| path.starts_with(of) && t.contains(text));
            if !REFERENCES
                .iter()
                .any(|file| any(&format!("fn {operation}(\n"), file) || any(&format!("fn {operation}(&"), file))
            {
                violations.push(format!("`{operation}`, which {kernel}.cu serves, has no reference"));
            }
            if !any(&format!(".{operation}("), CASES) {
                violations.push(format!("`{operation}`, which {kernel}.cu serves, has no case under {CASES}"));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files that the table asks for.
    fn complete() -> Vec<(String, String)> {
        let mut files = Vec::new();
        for (kernel, operations) in KERNELS {
            files.push((format!("kernels/{kernel}.cu"), String::new()));
            files.push((format!("kernels/ptx/{kernel}.ptx"), String::new()));
            files.push((format!("{WRAPPERS}{kernel}.rs"), format!("include_str!(\"kernels/ptx/{kernel}.ptx\")")));
            for operation in *operations {
                files.push((REFERENCES[0].to_owned(), format!("fn {operation}(&mut self)")));
                files.push((format!("{CASES}{kernel}.rs"), format!("backend.{operation}(&x)")));
            }
        }
        files
    }

    fn violations(files: &[(String, String)]) -> Vec<String> {
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
        check(&Tree::of(&files))
    }

    #[test]
    fn whatever_is_missing_is_named() {
        assert_eq!(violations(&complete()), [""; 0]);
        for (path, what) in [
            ("kernels/gelu.cu", "kernels/gelu.cu, which is not there"),
            ("kernels/ptx/gelu.ptx", "kernels/gelu.cu has no PTX"),
            ("crates/backend-cuda/src/kernels/gelu.rs", "kernels/gelu.cu has no wrapper"),
            ("crates/testkit/src/conformance/gelu.rs", "`gelu`, which gelu.cu serves, has no case"),
        ] {
            let mut files = complete();
            files.retain(|(of, _)| of != path);
            assert!(violations(&files).iter().any(|violation| violation.contains(what)), "{path}");
        }
        let mut files = complete();
        files.retain(|(_, text)| !text.contains("fn embed("));
        assert_eq!(violations(&files), ["`embed`, which embed.cu serves, has no reference"]);
        for newcomer in ["kernels/new.cu", "crates/backend-cuda/src/kernels/new.rs"] {
            let mut files = complete();
            files.push((newcomer.to_owned(), String::new()));
            assert_eq!(violations(&files).len(), 1, "{newcomer}");
        }
    }
}
