//! Which tokens end a text.

use std::fmt;

/// The tokenizer's own end-of-text token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EosToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// The file whose `eos_token` it is.
    pub file: &'static str,
}

/// The tokens that end a text, each with the file that names it.
///
/// As in Text Generation Inference: those that generation_config.json names; where it names none, those of config.json;
/// and in any case the tokenizer's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndOfText(Vec<End>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    id: u32,
    file: &'static str,
    key: &'static str,
}

/// A file names an end of text that the model cannot generate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: `{key}` is token {id}, but the model's vocabulary has {vocab} tokens, from 0 on; correct the file")]
pub struct EosError {
    file: &'static str,
    key: &'static str,
    id: u32,
    vocab: usize,
}

impl EndOfText {
    /// From the `eos_token_id` of both configs, where empty means that the file names none, and the tokenizer's
    /// `eos_token`. `vocab` is the model's number of tokens.
    ///
    /// # Errors
    ///
    /// If a file that counts names a token beyond the vocabulary.
    pub fn new(
        generation_config: &[u32],
        config: &[u32],
        tokenizer: Option<&EosToken>,
        vocab: usize,
    ) -> Result<Self, EosError> {
        let (file, ids) = match generation_config {
            [] => ("config.json", config),
            ids => ("generation_config.json", ids),
        };
        let of_configs = ids.iter().map(|&id| End { id, file, key: "eos_token_id" });
        let own = tokenizer.map(|token| End { id: token.id, file: token.file, key: "eos_token" });
        let mut ends: Vec<End> = Vec::new();
        for end in of_configs.chain(own) {
            let End { id, file, key } = end;
            if id as usize >= vocab {
                return Err(EosError { file, key, id, vocab });
            }
            if !ends.iter().any(|known| known.id == id) {
                ends.push(end);
            }
        }
        Ok(Self(ends))
    }

    /// The ids; none if no file names any, and then every answer goes on to its `max_new_tokens`.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        self.0.iter().map(|end| end.id).collect()
    }
}

impl fmt::Display for EndOfText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, End { id, file, key }) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{id} ({file} `{key}`)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids of both configs, the tokenizer's token, and what they come to.
    type Row<'a, T> = (&'a [u32], &'a [u32], Option<&'a EosToken>, T);

    #[test]
    fn each_combination() {
        let own = EosToken { id: 7, text: "</s>".into(), file: "tokenizer_config.json" };
        let generation = "generation_config.json `eos_token_id`";
        let config = "config.json `eos_token_id`";
        let rows: [Row<'_, String>; 9] = [
            (&[], &[], None, "none".into()),
            (&[], &[11], None, format!("11 ({config})")),
            (&[5], &[11], None, format!("5 ({generation})")),
            (&[11, 5], &[4], None, format!("11 ({generation}), 5 ({generation})")),
            (&[], &[], Some(&own), "7 (tokenizer_config.json `eos_token`)".into()),
            (&[], &[11], Some(&own), format!("11 ({config}), 7 (tokenizer_config.json `eos_token`)")),
            (&[5], &[11], Some(&own), format!("5 ({generation}), 7 (tokenizer_config.json `eos_token`)")),
            (&[], &[7, 7], Some(&own), format!("7 ({config})")),
            // What does not count is not looked at.
            (&[5], &[99], None, format!("5 ({generation})")),
        ];
        for (generation_ids, config_ids, token, expected) in rows {
            let ends = EndOfText::new(generation_ids, config_ids, token, 12).unwrap();
            assert_eq!(ends.to_string(), expected);
        }
        assert_eq!(EndOfText::new(&[11, 5], &[4], Some(&own), 12).unwrap().ids(), [11, 5, 7]);
    }

    #[test]
    fn tokens_beyond_the_vocabulary_are_refused_by_file_and_key() {
        let own = EosToken { id: 12, text: "</s>".into(), file: "special_tokens_map.json" };
        let rows: [Row<'_, &str>; 3] = [
            (&[11, 12], &[11], None, "generation_config.json: `eos_token_id` is token 12"),
            (&[], &[u32::MAX], None, "config.json: `eos_token_id` is token 4294967295"),
            (&[], &[11], Some(&own), "special_tokens_map.json: `eos_token` is token 12"),
        ];
        for (generation_ids, config_ids, token, expected) in rows {
            let message = EndOfText::new(generation_ids, config_ids, token, 12).unwrap_err().to_string();
            assert_eq!(message.split(',').next(), Some(expected));
            assert!(message.contains("vocabulary has 12 tokens"), "{message}");
        }
    }
}
