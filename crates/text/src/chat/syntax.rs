//! Jinja's syntax where minijinja's differs, rewritten in a template's source. Lines keep their numbers.
//!
//! * transformers' tag `{% generation %}`, which tells an assistant's tokens apart in training, becomes `{% with %}`: a block
//!   of its own scope, which prints what it holds.
//! * `{% raw %}` keeps a newline that follows it.
//! * In strings, a backslash at a line's end joins the lines, and `\/`, `\a`, `\v` and `\U` are Python's.
//! * Every end of a line is `\n`.
//! * What `{% set %}` stores goes through a filter of ours first ([`super::stored`]).

use super::stored;

/// Bytes of an expression or a tag besides its strings, of which some hundred are usual: the compiler's stack grows with
/// each operator.
pub(super) const EXPRESSION_BYTES_MAX: usize = 4096;

/// An expression has more bytes than [`EXPRESSION_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LongExpression {
    /// From 1.
    pub(super) line: usize,
}

/// The source for minijinja.
pub(super) fn for_minijinja(source: &str) -> Result<String, LongExpression> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut rewriter = Rewriter { rest: &source, text: String::with_capacity(source.len()), joined_lines: 0 };
    while let Some(at) = rewriter.rest.find('{') {
        rewriter.copy(at);
        let start = source.len() - rewriter.rest.len();
        let bytes = match rewriter.rest.as_bytes().get(1) {
            Some(b'#') => rewriter.comment(),
            Some(b'%') => rewriter.tag(),
            Some(b'{') => rewriter.printed(),
            _ => rewriter.brace(),
        };
        if bytes > EXPRESSION_BYTES_MAX {
            return Err(LongExpression { line: source[..start].matches('\n').count() + 1 });
        }
    }
    Ok(rewriter.text + rewriter.rest)
}

struct Rewriter<'a> {
    rest: &'a str,
    text: String,
    /// Ends of lines within a string that are yet to be written, after it.
    joined_lines: usize,
}

/// The name of a tag, with what stands before it: `{%`, a sign, white space.
fn name_of_tag(tag: &str) -> (usize, &str) {
    let inner = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let name = inner.len() - inner.trim_start_matches(|char: char| char.is_alphanumeric() || char == '_').len();
    (tag.len() - inner.len(), &inner[..name])
}

impl Rewriter<'_> {
    fn copy(&mut self, bytes: usize) {
        let (copied, rest) = self.rest.split_at(bytes);
        self.text += copied;
        self.rest = rest;
    }

    /// Copies up to the end of the next `end`; all if there is none.
    fn copy_through(&mut self, end: &str) {
        self.copy(self.rest.find(end).map_or(self.rest.len(), |at| at + end.len()));
    }

    fn brace(&mut self) -> usize {
        self.copy(1);
        0
    }

    fn comment(&mut self) -> usize {
        self.copy_through("#}");
        0
    }

    fn printed(&mut self) -> usize {
        self.copy(2);
        self.expression("}}", None)
    }

    fn tag(&mut self) -> usize {
        let (start, name) = name_of_tag(self.rest);
        let name = name.to_owned();
        self.copy(start);
        match &*name {
            "generation" | "endgeneration" => {
                self.text += if name == "generation" { "with" } else { "endwith" };
                self.rest = &self.rest[name.len()..];
            }
            "raw" => return self.raw(),
            "set" => {
                // A block has no `=`, but perhaps in the arguments of a filter.
                let target = self.rest.find(['=', '|', '%']).map_or("", |at| &self.rest[..at]);
                let filter = if target.contains('.') { stored::IN_NAMESPACE } else { stored::IN_VARIABLE };
                return self.expression("%}", Some(filter));
            }
            _ => {}
        }
        self.expression("%}", None)
    }

    /// From the name of a tag `raw` through its `endraw`.
    fn raw(&mut self) -> usize {
        self.copy("raw".len());
        if let Some(at) = self.rest.find("%}").filter(|&at| self.rest[..at].trim().is_empty()) {
            self.copy(at);
            self.text.push('+');
        }
        self.copy_through("%}");
        while let Some(at) = self.rest.find("{%") {
            self.copy(at);
            if name_of_tag(self.rest).1 == "endraw" {
                self.copy_through("%}");
                break;
            }
            self.copy(2);
        }
        0
    }

    /// Through `end`, which is no end within a string or brackets. What follows the first `=` goes through the filter.
    /// Returns the bytes besides those of strings.
    fn expression(&mut self, end: &str, filter: Option<&str>) -> usize {
        let (mut depth, mut bytes, mut is_assigned) = (0_usize, 0, false);
        while let Some(char) = self.rest.chars().next() {
            if depth == 0 && self.rest.trim_start_matches(['-', '+']).starts_with(end) {
                // A sign before the end is part of it; others before that are not.
                let signs = self.rest.len() - self.rest.trim_start_matches(['-', '+']).len();
                let others = signs.saturating_sub(1);
                self.copy(others);
                bytes += others;
                if let Some(filter) = filter.filter(|_| is_assigned) {
                    self.text += ")|";
                    self.text += filter;
                    self.text.push(' ');
                }
                self.copy_through(end);
                break;
            }
            match char {
                '"' | '\'' => {
                    self.string(char);
                    continue;
                }
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.copy(char.len_utf8());
            bytes += char.len_utf8();
            if char == '=' && depth == 0 && filter.is_some() && !is_assigned {
                self.text.push('(');
                is_assigned = true;
            }
        }
        bytes
    }

    fn string(&mut self, quote: char) {
        self.copy(1);
        loop {
            let Some(at) = self.rest.find([quote, '\\']) else { return self.copy(self.rest.len()) };
            self.copy(at);
            if self.rest.starts_with(quote) {
                self.copy(1);
                break;
            }
            self.escape();
        }
        // White space between the tokens of an expression is free.
        self.text.extend(std::iter::repeat_n('\n', std::mem::take(&mut self.joined_lines)));
    }

    /// A backslash and what it escapes.
    fn escape(&mut self) {
        let Some(escaped) = self.rest[1..].chars().next() else { return self.copy(1) };
        let code = |digits: &str| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        let (written, bytes) = match escaped {
            '\n' => {
                self.joined_lines += 1;
                (String::new(), 2)
            }
            '/' => ("\\\\/".to_owned(), 2),
            'a' => ("\\x07".to_owned(), 2),
            'v' => ("\\x0b".to_owned(), 2),
            'U' => match self.rest.get(2..10).and_then(code) {
                Some(char) => (char.to_string(), 10),
                None => return self.copy(2),
            },
            _ => return self.copy(1 + escaped.len_utf8()),
        };
        self.text += &written;
        self.rest = &self.rest[bytes..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_rewritten_and_nothing_else() {
        for (source, expected) in [
            ("a{% generation %}b{% endgeneration %}c", "a{% with %}b{% endwith %}c"),
            ("{%- generation -%}{%-endgeneration+%}", "{%- with -%}{%-endwith+%}"),
            ("{%\n  generation\n-%}", "{%\n  with\n-%}"),
            (
                "{% generations %}{% if generation %}{{ generation }}",
                "{% generations %}{% if generation %}{{ generation }}",
            ),
            ("{# {% generation %} #}", "{# {% generation %} #}"),
            ("{% raw %}\n{% generation %}'{% endraw %}", "{% raw +%}\n{% generation %}'{% endraw %}"),
            ("{%- raw -%} {{ ' {%+ endraw -%}{{ '\\/' }}", "{%- raw -%} {{ ' {%+ endraw -%}{{ '\\\\/' }}"),
            ("{{ '{% generation %}' }} it's {% x %}", "{{ '{% generation %}' }} it's {% x %}"),
            ("{{ {'a': {'b': '}}'}}['a'] }}'\\/'", "{{ {'a': {'b': '}}'}}['a'] }}'\\/'"),
            ("{{ \"a\\\n  b\\\\\\\"\" }}", "{{ \"a  b\\\\\\\"\"\n }}"),
            ("{{ '\\a\\v\\U0001f985\\U1' }}", "{{ '\\x07\\x0b🦅\\U1' }}"),
            ("{% set x = 1 %}", "{% set x =( 1 )|stored_in_variable %}"),
            ("{%- set a.b = x == '%}' -%}", "{%- set a.b =( x == '%}' )|stored_in_namespace -%}"),
            ("{% set a, b = 1, {'c': 2}+%}", "{% set a, b =( 1, {'c': 2})|stored_in_variable +%}"),
            ("{% set x %}{% set y | indent(width=2) %}", "{% set x %}{% set y | indent(width=2) %}"),
            ("a\r\nb\rc", "a\nb\nc"),
            ("{", "{"),
            ("{{ '", "{{ '"),
            ("{{ '\\", "{{ '\\"),
            ("{% raw", "{% raw"),
            ("{% raw %}{% x", "{% raw +%}{% x"),
            ("{%", "{%"),
            ("{# {", "{# {"),
            ("é{{ 'é\\é' }}é", "é{{ 'é\\é' }}é"),
        ] {
            assert_eq!(for_minijinja(source).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn an_expression_is_not_longer_than_any_that_people_write() {
        let of = |bytes: usize| for_minijinja(&format!("a\nb{{{{{}}}}}", "-".repeat(bytes)));
        assert!(of(EXPRESSION_BYTES_MAX).is_ok());
        assert_eq!(of(EXPRESSION_BYTES_MAX + 2), Err(LongExpression { line: 2 }));
        assert!(for_minijinja(&format!("{{{{ '{}' }}}}", "-".repeat(EXPRESSION_BYTES_MAX + 2))).is_ok());
    }

    #[test]
    fn any_source_keeps_its_lines() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let pieces = [
            "{%",
            "%}",
            "{{",
            "}}",
            "{#",
            "#}",
            "raw",
            "endraw",
            "generation",
            "'",
            "\"",
            "\\",
            "\n",
            "-",
            " ",
            "é",
            "U",
        ];
        for _ in 0..20_000 {
            let source: String = (0..random.usize(..20)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let lines = |text: &str| text.matches('\n').count();
            let rewritten = for_minijinja(&source).unwrap();
            // A string without an end is an error in any case.
            assert!(lines(&rewritten) <= lines(&source), "seed {seed}: {source:?}");
        }
    }
}
