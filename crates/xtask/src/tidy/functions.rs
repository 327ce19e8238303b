//! How long a function may be.

use super::tree::Tree;
use proc_macro2::Span;
use syn::visit::{self, Visit};

const LINES_MAX: usize = 70;

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in tree.texts(".rs") {
        match syn::parse_file(text) {
            Ok(file) => Functions { path, violations: &mut violations }.visit_file(&file),
            Err(error) => violations.push(format!("{path}:{}: {error}", error.span().start().line)),
        }
    }
    violations
}

struct Functions<'a> {
    path: &'a str,
    violations: &'a mut Vec<String>,
}

impl Functions<'_> {
    /// Measured from the line of the `fn` to that of the closing brace.
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let line = |span: Span| span.start().line;
        let (first, last) = (line(signature.fn_token.span), line(body.brace_token.span.close()));
        let lines = last - first + 1;
        if lines > LINES_MAX {
            let (path, name) = (self.path, &signature.ident);
            self.violations
                .push(format!("{path}:{first}: `{name}` has {lines} lines, at most {LINES_MAX} are allowed"));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Violations in `around`, in which `FN` is a function of so many lines.
    fn violations(around: &str, lines: usize) -> Vec<String> {
        let function = format!("fn long() {{\n{}}}\n", "    call();\n".repeat(lines - 2));
        check(&Tree::of(&[("crates/a/src/lib.rs", &around.replace("FN", &function))]))
    }

    #[test]
    fn length_is_measured_wherever_a_function_is() {
        for around in ["/// Doc.\n#[inline]\nFN", "struct S;\nimpl S { FN }", "trait T { FN }", "mod m { FN }"] {
            assert!(violations(around, LINES_MAX).is_empty(), "{around}");
            let [violation] = &violations(around, LINES_MAX + 1)[..] else { panic!("{around}") };
            assert!(violation.contains("`long` has 71 lines"), "{violation}");
        }
        assert!(violations("//! Doc.\n\nFN", 100)[0].starts_with("crates/a/src/lib.rs:3: "));
    }

    #[test]
    fn what_does_not_parse_is_reported() {
        assert_eq!(check(&Tree::of(&[("a.rs", "fn {")])).len(), 1);
        assert!(check(&Tree::of(&[("a.txt", "fn {")])).is_empty());
    }
}
