//! Where a text may be cut so that its parts have the tokens of the whole.

use tokenizers::PreTokenizerWrapper;

/// Knows where texts may be cut.
///
/// Byte-level BPE encodes a text word by word, and a word ends where a character that is no white space is followed by
/// white space: no alternative of GPT-2's pattern goes on there, and nothing of it looks back. The pre-tokenizers beside
/// the pattern decide by neighbouring characters, or within a word. So what is left and right of such a place is encoded
/// alike in any context, unless an added token, which is found before words are, touches it.
#[derive(Clone, Debug)]
pub(crate) struct SplitPoints {
    /// Contents of the added tokens.
    added: Vec<Box<[u8]>>,
    /// Bytes of the longest of them.
    reach: usize,
    /// False of a tokenizer of which the above is not known to be true: its texts are never cut.
    known: bool,
}

impl SplitPoints {
    pub(crate) fn new(library: &tokenizers::Tokenizer) -> Self {
        let added = library.get_added_tokens_decoder().into_values();
        let added: Vec<Box<[u8]>> = added.map(|token| token.content.into_bytes().into()).collect();
        let reach = added.iter().map(|token| token.len()).max().unwrap_or(0);
        let known = library.get_normalizer().is_none() && library.get_pre_tokenizer().is_some_and(splits_words);
        Self { added, reach, known }
    }

    /// The last place within `from..=to` of `text` at which it may be cut.
    pub(crate) fn last(&self, text: &str, from: usize, to: usize) -> Option<usize> {
        if !self.known {
            return None;
        }
        (from.max(1)..=to.min(text.len())).rev().find(|&at| is_word_end(text, at) && !self.touches_added(text, at))
    }

    /// Whether an added token may lie within its length of `at`.
    fn touches_added(&self, text: &str, at: usize) -> bool {
        let near = &text.as_bytes()[at.saturating_sub(self.reach)..text.len().min(at + self.reach)];
        self.added.iter().any(|token| !token.is_empty() && near.windows(token.len()).any(|part| part == &**token))
    }
}

/// Whether white space follows another character at byte `at`. Only ASCII is looked for, of which each byte is a whole
/// character.
fn is_word_end(text: &str, at: usize) -> bool {
    matches!(text.as_bytes().get(at), Some(b' ' | b'\n' | b'\r' | b'\t'))
        && text[..at].chars().next_back().is_some_and(|before| !before.is_whitespace())
}

/// Whether a pre-tokenizer splits a text by GPT-2's pattern, before it by nothing but kinds of characters, and after it
/// within words.
fn splits_words(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    let steps = match pre_tokenizer {
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref(),
        single => std::slice::from_ref(single),
    };
    let by_kind = |step: &&PreTokenizerWrapper| {
        matches!(step, PreTokenizerWrapper::Punctuation(_) | PreTokenizerWrapper::Digits(_))
    };
    let pattern = steps.iter().find(|step| !by_kind(step));
    matches!(pattern, Some(PreTokenizerWrapper::ByteLevel(level)) if level.use_regex && !level.add_prefix_space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokenizers::AddedToken;

    const PIECES: [&str; 32] = [
        "Falcon",
        "the",
        "a",
        "é",
        "e\u{301}",
        "日本語",
        "🦅",
        "I'll",
        "it's",
        "'t",
        "'",
        "don't",
        "12345",
        "7",
        "½",
        "٣٤",
        " ",
        "  ",
        "    ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{3000}",
        ".",
        ",,,",
        "—",
        "$",
        "<|endoftext|>",
        ">>TITLE<<",
        "\u{3}",
    ];

    fn falcon() -> tokenizers::Tokenizer {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer/tokenizer.json");
        tokenizers::Tokenizer::from_file(file).unwrap()
    }

    fn ids(library: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
        library.encode_fast(text, false).unwrap().get_ids().to_vec()
    }

    /// Random texts, cut at every place that is offered: also with added tokens that take white space with them, stand
    /// for whole words alone, or have white space within.
    #[test]
    fn parts_have_the_tokens_of_the_whole() {
        let mut flags = falcon();
        let added = [
            AddedToken::from("the", false).single_word(true),
            AddedToken::from("<l>", true).lstrip(true),
            AddedToken::from("<r>", true).rstrip(true),
            AddedToken::from("a 7", false),
            AddedToken::from("a a a", true).lstrip(true).rstrip(true),
        ];
        flags.add_tokens(added).unwrap();
        for (library, extra) in [(falcon(), &[][..]), (flags, &["<l>", "<r>", "a 7", "a a a", "a a"])] {
            let cuts = SplitPoints::new(&library);
            assert!(cuts.known);
            let pieces: Vec<&str> = PIECES.iter().chain(extra).copied().collect();
            let mut places = 0;
            for seed in 0..5_000 {
                let mut rng = fastrand::Rng::with_seed(seed);
                let text: String = (0..rng.usize(1..24)).map(|_| *rng.choice(&pieces).unwrap()).collect();
                let whole = ids(&library, &text);
                let mut end = text.len();
                while let Some(at) = cuts.last(&text, 0, end) {
                    let parts = [ids(&library, &text[..at]), ids(&library, &text[at..])].concat();
                    assert_eq!(parts, whole, "seed {seed}: {text:?} cut at {at}");
                    (places, end) = (places + 1, at - 1);
                }
            }
            assert!(places > 2_000, "{places} places of 5000 texts");
        }
    }

    #[test]
    fn places_of_a_text() {
        let cuts = SplitPoints::new(&falcon());
        let text = "one two\n\n three";
        assert_eq!(cuts.last(text, 0, text.len()), Some(7));
        assert_eq!(cuts.last(text, 0, 6), Some(3));
        assert_eq!(cuts.last(text, 4, 6), None);
        assert_eq!(cuts.last(" one", 0, 4), None, "the start is no cut");
        assert_eq!(cuts.last("one<|endoftext|> two", 0, 20), None, "too near to an added token");
    }

    #[test]
    fn other_tokenizers_are_never_cut() {
        let with = |change: fn(&mut tokenizers::Tokenizer)| {
            let mut library = falcon();
            change(&mut library);
            SplitPoints::new(&library).last("one two", 0, 7)
        };
        assert_eq!(with(|_| {}), Some(3));
        assert_eq!(with(|library| drop(library.with_normalizer(Some(tokenizers::normalizers::NFC)).map(|_| ()))), None);
        assert_eq!(
            with(|library| {
                library.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::byte_level::ByteLevel::new(
                    false, true, false,
                )));
            }),
            None
        );
        assert_eq!(
            with(|library| {
                library.with_pre_tokenizer(None::<PreTokenizerWrapper>);
            }),
            None
        );
    }
}
