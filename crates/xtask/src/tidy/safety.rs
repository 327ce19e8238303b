//! Where unsafe code may be, and that it is argued. Works on tokens, so that macros are covered too.

use super::tree::Tree;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Paths that may hold unsafe code: files, directories or beginnings of names.
const ALLOWED: &[&str] = &[
    "crates/backend-cpu/src/kernels/",
    "crates/backend-cpu/src/shm",
    "crates/backend-cpu/tests/models/",
    "crates/amx-standin/",
    "crates/backend-cuda/",
    "crates/cuda-standin/",
    "crates/weights/src/mmap",
    "crates/peregrine/src/heap.rs",
];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in tree.texts(".rs") {
        // What does not parse is reported by the rule about functions.
        let tokens: TokenStream = text.parse().unwrap_or_default();
        let mut uses = Vec::new();
        find_unsafe(tokens, &mut uses);
        let lines: Vec<&str> = text.lines().collect();
        let allowed = ALLOWED.iter().any(|place| path.starts_with(place));
        for Unsafe { line, needs_argument } in uses {
            if !allowed {
                violations.push(format!("{path}:{line}: unsafe code is not allowed in this file"));
            } else if needs_argument && !is_argued(&lines[..line]) {
                violations.push(format!("{path}:{line}: no `// SAFETY:` comment above"));
            }
        }
    }
    violations
}

struct Unsafe {
    line: usize,
    /// A block or an impl, unlike an `unsafe fn`, which states its conditions for others to argue.
    needs_argument: bool,
}

fn find_unsafe(tokens: TokenStream, uses: &mut Vec<Unsafe>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => find_unsafe(group.stream(), uses),
            TokenTree::Ident(ident) if ident == "unsafe" => {
                let needs_argument = match tokens.peek() {
                    Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Brace,
                    Some(TokenTree::Ident(next)) => next == "impl",
                    _ => false,
                };
                uses.push(Unsafe { line: ident.span().start().line, needs_argument });
            }
            _ => {}
        }
    }
}

/// Whether the statement or item that the last of `lines` belongs to has a SAFETY comment directly above.
fn is_argued(lines: &[&str]) -> bool {
    let mut above = lines.iter().rev().map(|line| line.trim()).skip(1).skip_while(|line| {
        let attribute = line.starts_with("#[");
        let earlier_in_the_statement = !line.is_empty() && !line.ends_with(['{', '}', ';', ',']);
        !line.starts_with("//") && (attribute || earlier_in_the_statement)
    });
    above.by_ref().take_while(|line| line.starts_with("//")).any(|line| line.starts_with("// SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)]))
    }

    #[test]
    fn unsafe_code_is_allowed_in_few_files() {
        let argued = "fn f() {\n    // SAFETY: so.\n    unsafe { g() }\n}\n";
        for allowed in
            ["crates/weights/src/mmap.rs", "crates/backend-cpu/src/kernels/dot.rs", "crates/backend-cpu/src/shm.rs"]
        {
            assert!(violations(allowed, argued).is_empty(), "{allowed}");
        }
        for other in ["crates/weights/src/lib.rs", "crates/backend-cpu/src/lib.rs", "crates/weights/tests/it/main.rs"] {
            assert_eq!(violations(other, argued).len(), 1, "{other}");
        }
        // The word alone is no code.
        assert!(
            violations("crates/api/src/lib.rs", "//! unsafe\n#![forbid(unsafe_code)]\nconst U: &str = \"unsafe\";")
                .is_empty()
        );
        assert_eq!(violations("crates/api/src/lib.rs", "macro_rules! m { () => { unsafe { f() } } }").len(), 1);
    }

    #[test]
    fn blocks_and_impls_are_argued() {
        let at = |text| violations("crates/cuda-standin/src/lib.rs", text);
        for argued in [
            "fn f() {\n    // SAFETY: so,\n    // and so.\n    let x =\n        unsafe { g() };\n}",
            "// SAFETY: so.\n#[allow(x)]\nunsafe impl Send for S {}",
            "/// Does.\n///\n/// # Safety\n///\n/// Always.\npub unsafe fn f() {}",
            "#[unsafe(no_mangle)]\nextern \"C\" fn f() {}",
        ] {
            assert_eq!(at(argued), Vec::<String>::new(), "{argued}");
        }
        for bare in [
            "fn f() {\n    unsafe { g() }\n}",
            "fn f() {\n    // Quick.\n    unsafe { g() }\n}",
            "fn f() {\n    // SAFETY: so.\n    let x = unsafe { g() };\n    unsafe { h() }\n}",
            "fn f() {\n    // SAFETY: so.\n\n    unsafe { g() }\n}",
            "unsafe impl Send for S {}",
        ] {
            assert_eq!(at(bare).len(), 1, "{bare}");
        }
    }
}
