//! Marks of work that is not done.

use super::files::{FOREIGN, is_under};
use super::tree::Tree;

// In pieces, so that this file passes its own check.
const IN_CODE: &[&str] = &[concat!("to", "do!"), concat!("unimple", "mented!"), concat!("#[ig", "nore")];
const WORDS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in tree.texts("").filter(|(path, _)| !is_under(path, FOREIGN)) {
        for (number, line) in (1..).zip(text.lines()) {
            let in_code = IN_CODE.iter().filter(|mark| path.ends_with(".rs") && line.contains(**mark));
            let words = WORDS.iter().filter(|word| line.split(|c: char| !c.is_alphanumeric()).any(|w| w == **word));
            violations.extend(in_code.chain(words).map(|mark| format!("{path}:{number}: `{mark}`")));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found() {
        for mark in IN_CODE.iter().chain(WORDS) {
            let [violation] = &check(&Tree::of(&[("a/b.rs", &format!("\n    {mark}(1)"))]))[..] else {
                panic!("{mark}")
            };
            assert!(violation.starts_with("a/b.rs:2: "), "{violation}");
        }
        for word in WORDS {
            assert_eq!(check(&Tree::of(&[("docs/a.md", &format!("- {word}: later"))])).len(), 1, "{word}");
        }
    }

    #[test]
    fn what_only_looks_like_a_mark_is_none() {
        let template = format!("mktemp -d /tmp/a.{}{}\n", WORDS[1], WORDS[1]);
        assert!(check(&Tree::of(&[("scripts/a.sh", &template)])).is_empty());
        assert!(check(&Tree::of(&[("Cargo.toml", "todo = \"deny\"\n")])).is_empty());
        assert!(check(&Tree::of(&[("testdata/a.json", WORDS[1])])).is_empty());
    }
}
