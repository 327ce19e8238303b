//! What may be in the tree, how large it may be, and how clean its text is.

use super::tree::{SourceFile, Tree};

/// What lies at the top, beside files whose names begin with a dot.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "crates",
    "docs",
    "findings",
    "kernels",
    "proto",
    "rustfmt.toml",
    "scripts",
    "testdata",
];

const FILE_BYTES_MAX: usize = 1 << 20;
const TREE_BYTES_MAX: usize = 56 << 20;
/// Lines of a source file: a longer one has more than one subject.
const SOURCE_LINES_MAX: usize = 500;
const SOURCE_ENDINGS: &[&str] = &[".rs", ".cu", ".h", ".py", ".proto"];
/// Source files that are longer, until they are taken apart.
const LONG: &[&str] = &["crates/backend-cuda/src/cuda.rs"];
/// Where larger files may be: models and tokenizers.
const LARGE: &[&str] = &["crates/runtime/falcon-demo/", "testdata/models/", "testdata/tokenizer/"];

/// Data made by other programs, which is kept as they wrote it.
pub(super) const FOREIGN: &[&str] = &["crates/runtime/falcon-demo/", "testdata/"];

/// What belongs to the machine on which something was written. In pieces, so that this file passes its own check.
const FORBIDDEN: &[&str] = &[
    concat!("/home", "/"),
    concat!("/root", "/"),
    concat!("/work", "/"),
    concat!("..", "/shared"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("registry.", "npmjs.org"),
    concat!("proxy.", "golang.org"),
];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for file in &tree.files {
        check_place(file, &mut violations);
        if let Some(text) = &file.text {
            check_text(&file.path, text, &mut violations);
        }
    }
    let bytes: usize = tree.files.iter().map(|file| file.bytes).sum();
    if bytes > TREE_BYTES_MAX {
        violations.push(format!("the tree has {bytes} bytes, at most {TREE_BYTES_MAX} are allowed"));
    }
    violations
}

/// Whether `path` is under one of `places`.
pub(super) fn is_under(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

fn check_place(file: &SourceFile, violations: &mut Vec<String>) {
    let SourceFile { path, bytes, .. } = file;
    let top = path.split('/').next().expect("split gives at least one part");
    if !top.starts_with('.') && !TOP_LEVEL.contains(&top) {
        violations.push(format!("{path}: `{top}` does not belong at the top of the tree"));
    }
    if *bytes > FILE_BYTES_MAX && !is_under(path, LARGE) {
        violations.push(format!("{path}: {bytes} bytes, at most {FILE_BYTES_MAX} are allowed"));
    }
}

fn check_text(path: &str, text: &str, violations: &mut Vec<String>) {
    for (number, line) in (1..).zip(text.split('\n')) {
        let mut report = |what: &str| violations.push(format!("{path}:{number}: {what}"));
        for forbidden in FORBIDDEN.iter().filter(|forbidden| line.contains(**forbidden)) {
            report(&format!("`{forbidden}` does not belong in the tree"));
        }
        if is_under(path, FOREIGN) {
            continue;
        }
        if line.trim_end() != line {
            report("white space at the end of the line");
        }
        if path.ends_with(".rs") && line.contains('\t') {
            report("a tab");
        }
    }
    let lines = text.lines().count();
    let is_source = SOURCE_ENDINGS.iter().any(|ending| path.ends_with(ending)) && !is_under(path, FOREIGN);
    if is_source && lines > SOURCE_LINES_MAX && !LONG.contains(&path) {
        violations.push(format!("{path}: {lines} lines, at most {SOURCE_LINES_MAX} are allowed"));
    }
    if !is_under(path, FOREIGN) && !text.is_empty() && !text.ends_with('\n') {
        violations.push(format!("{path}: no newline at the end"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)]))
    }

    #[test]
    fn text_is_clean() {
        assert!(violations("crates/a/src/lib.rs", "//! A.\n\nmod b;\n").is_empty());
        assert!(violations("docs/empty.md", "").is_empty());
        assert!(violations("kernels/Makefile", "all:\n\ttrue\n").is_empty());
        for (text, what) in [
            ("//! A. \n", ":1: white space"),
            ("//! A.\r\n", ":1: white space"),
            ("//! A.\n\tmod b;\n", ":2: a tab"),
            ("//! A.", "no newline"),
        ] {
            let [violation] = &violations("crates/a/src/lib.rs", text)[..] else { panic!("{text:?}") };
            assert!(violation.contains(what), "{violation}");
        }
        assert!(violations("testdata/models/a/config.json", "{ \n}").is_empty());
    }

    #[test]
    fn nothing_of_the_writers_machine_is_in_the_tree() {
        for forbidden in FORBIDDEN {
            for path in ["docs/a.md", "testdata/a.json", "scripts/a.sh"] {
                assert_eq!(violations(path, &format!("see {forbidden}x\n")).len(), 1, "{forbidden} in {path}");
            }
        }
        assert!(
            violations("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n").is_empty()
        );
    }

    #[test]
    fn source_files_have_one_subject() {
        let lines = |count| "//\n".repeat(count);
        assert!(violations("crates/a/src/lib.rs", &lines(SOURCE_LINES_MAX)).is_empty());
        assert_eq!(violations("crates/a/src/lib.rs", &lines(SOURCE_LINES_MAX + 1)).len(), 1);
        for path in ["docs/a.md", "testdata/make.py", LONG[0]] {
            assert!(violations(path, &lines(SOURCE_LINES_MAX + 1)).is_empty(), "{path}");
        }
    }

    #[test]
    fn files_are_small_and_in_their_places() {
        for path in ["README.md", ".ci/run", ".gitignore", "crates/a/README.md"] {
            assert!(violations(path, "").is_empty(), "{path}");
        }
        assert_eq!(violations("notes.txt", "").len(), 1);
        assert_eq!(violations("src/lib.rs", "").len(), 1);

        let large = "x".repeat(FILE_BYTES_MAX) + "\n";
        assert_eq!(violations("docs/a.md", &large).len(), 1);
        assert!(violations("testdata/tokenizer/tokenizer.json", &large).is_empty());

        let file = |bytes| SourceFile { path: "testdata/models/a".to_owned(), bytes, text: None };
        let tree = |bytes| Tree { files: vec![file(bytes), file(TREE_BYTES_MAX / 2)] };
        assert!(check(&tree(TREE_BYTES_MAX / 2)).is_empty());
        assert_eq!(check(&tree(TREE_BYTES_MAX / 2 + 1)).len(), 1);
    }
}
