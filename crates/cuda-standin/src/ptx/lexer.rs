//! Tokens of PTX text.

use super::PtxError;

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A name, a register, a directive or a mnemonic with all its suffixes: `%r1`, `.reg`, `ld.global.L1::no_allocate.u32`.
    Word,
    /// Starts with a digit.
    Number,
    /// In quotes.
    Text,
    /// One character.
    Punctuation,
    /// The end.
    End,
}

/// A token, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    /// Byte offset in the source.
    pub start: usize,
    /// From one.
    pub line: usize,
}

/// Cuts a module into tokens; the last one is [`Kind::End`].
pub fn tokens(source: &str) -> Result<Vec<Token<'_>>, PtxError> {
    let mut lexer = Lexer { source, at: 0, line: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let token = lexer.next()?;
        tokens.push(token);
        if token.kind == Kind::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        self.line += self.source[self.at..self.at + bytes].matches('\n').count();
        self.at += bytes;
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            let comment = if rest[blank..].starts_with("//") {
                rest[blank..].find('\n').unwrap_or(rest.len() - blank)
            } else if rest[blank..].starts_with("/*") {
                rest[blank..].find("*/").map_or(rest.len() - blank, |end| end + 2)
            } else {
                0
            };
            if blank + comment == 0 {
                return;
            }
            self.advance(blank + comment);
        }
    }

    fn next(&mut self) -> Result<Token<'a>, PtxError> {
        let rest = self.rest();
        let (start, line) = (self.at, self.line);
        let (kind, bytes) = match rest.bytes().next() {
            None => (Kind::End, 0),
            Some(b'"') => (Kind::Text, 1 + rest[1..].find('"').map_or(rest.len() - 1, |end| end + 1)),
            Some(first) if first.is_ascii_digit() => (Kind::Number, number_len(rest)),
            Some(first) if is_word(first) => (Kind::Word, word_len(rest)),
            Some(first) if first.is_ascii() => (Kind::Punctuation, 1),
            Some(_) => {
                let found = rest.chars().take(1).collect();
                return Err(PtxError::Syntax { line, expected: "ASCII".to_owned(), found });
            }
        };
        self.advance(bytes);
        Ok(Token { kind, text: &rest[..bytes], start, line })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

fn number_len(rest: &str) -> usize {
    rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'.').count()
}

/// A word may hold `::` (`L2::cache_hint`), but ends before the single colon of a label.
fn word_len(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut len = 0;
    while len < bytes.len() {
        if is_word(bytes[len]) {
            len += 1;
        } else if bytes[len..].starts_with(b"::") {
            len += 2;
        } else {
            break;
        }
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_cut_into_tokens() {
        let source =
            "// c\n$L_1: @!%p1 ld.global.L2::256B.v2.u32 {%r1,%r2}, [%rd1+-4]; /* d\n */ .x 0f3F800000 \"a b\"";
        let texts: Vec<&str> = tokens(source).unwrap().iter().map(|token| token.text).collect();
        let expected = "$L_1 : @ ! %p1 ld.global.L2::256B.v2.u32 { %r1 , %r2 } , [ %rd1 + - 4 ] ; .x 0f3F800000";
        assert_eq!(texts[..texts.len() - 2].join(" "), expected);
        assert_eq!(texts[texts.len() - 2..], ["\"a b\"", ""]);
        assert_eq!(tokens(source).unwrap().last().unwrap().line, 3);
    }

    #[test]
    fn what_is_not_ascii_is_an_error() {
        assert!(tokens("ld.global ä").is_err());
    }
}
