//! The keys that callers show, and the file that has them.

use crate::follow::{FileError, Followed, NamedFile};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// Characters of a key, at least. A shorter one can be guessed.
const KEY_CHARS_MIN: usize = 16;
/// Characters of a name, at most. It stands in lines of the log.
const NAME_CHARS_MAX: usize = 64;

/// Who calls, in a word that the log may have: the name that stands before the key in its file, or else the key's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerName(Arc<str>);

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with the text of a file of keys. Nothing of the text is told: it may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("it is no text in UTF-8")]
    NoText,
    #[error("it has no key; expected one on each line, as `KEY` or `NAME KEY`")]
    Empty,
    #[error("line {line} has {words} words; expected `KEY` or `NAME KEY`")]
    Words { line: usize, words: usize },
    #[error("the key on line {line} has {chars} characters; expected at least {KEY_CHARS_MIN}")]
    Short { line: usize, chars: usize },
    #[error("the key on line {line} has characters that a header cannot have; expected printable ASCII")]
    Characters { line: usize },
    #[error(
        "the name on line {line} is none; expected up to {NAME_CHARS_MAX} letters, digits and any of `.`, `_`, `-`, `@`"
    )]
    Name { line: usize },
    #[error("lines {first} and {line} have the same key")]
    Twice { first: usize, line: usize },
}

/// The keys of a file, of which any lets a caller in. They follow the file.
#[derive(Clone)]
pub struct Keys(Followed<KeyRing>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.newest().0.len())
    }
}

impl Keys {
    /// Reads the keys of `path`, and from then on whenever it changes. If it is broken then, the keys before stay.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`FileError`], if the file cannot be read or has no keys.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let file = NamedFile { flag: "--api-key-file", path };
        Followed::start(vec![file], |files, contents| parse(&contents[0]).map_err(|error| files[0].error(error)))
            .map(Self)
    }

    /// Whose key it is. The time that this takes depends on the number of keys and on the length of what was shown, and on nothing
    /// else.
    #[must_use]
    pub fn caller(&self, shown: &[u8]) -> Option<CallerName> {
        self.0.newest().caller(shown)
    }
}

struct Key {
    name: CallerName,
    /// SHA-256. Digests have one length, so that a comparison does not tell the key's.
    digest: [u8; 32],
}

/// The keys at one time.
struct KeyRing(Vec<Key>);

impl KeyRing {
    fn caller(&self, shown: &[u8]) -> Option<CallerName> {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        let mut found = u64::MAX;
        for (index, key) in self.0.iter().enumerate() {
            found.conditional_assign(&(index as u64), key.digest.ct_eq(&shown));
        }
        self.0.get(usize::try_from(found).ok()?).map(|key| key.name.clone())
    }
}

/// The lines of a file that have a key, each with its number.
fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The keys of a file's text.
fn parse(text: &[u8]) -> Result<KeyRing, KeyError> {
    let text = std::str::from_utf8(text).map_err(|_| KeyError::NoText)?;
    let mut keys: Vec<(usize, Key)> = Vec::new();
    for (line, text) in entries(text) {
        let key = parse_line(line, text)?;
        if let Some((first, _)) = keys.iter().find(|(_, other)| other.digest == key.digest) {
            return Err(KeyError::Twice { first: *first, line });
        }
        keys.push((line, key));
    }
    if keys.is_empty() { Err(KeyError::Empty) } else { Ok(KeyRing(keys.into_iter().map(|(_, key)| key).collect())) }
}

fn parse_line(line: usize, text: &str) -> Result<Key, KeyError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, key) = match words[..] {
        [key] => (format!("line-{line}"), key),
        [name, key] => (name.to_owned(), key),
        _ => return Err(KeyError::Words { line, words: words.len() }),
    };
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(KeyError::Characters { line });
    }
    if key.len() < KEY_CHARS_MIN {
        return Err(KeyError::Short { line, chars: key.len() });
    }
    let is_named = name.len() <= NAME_CHARS_MAX
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte));
    if !is_named {
        return Err(KeyError::Name { line });
    }
    Ok(Key { name: CallerName(name.into()), digest: Sha256::digest(key).into() })
}

/// The first key of a file, for a client that has one of its own.
///
/// # Errors
///
/// [`FileError`], if the file cannot be read or has no keys.
pub fn first_key(path: PathBuf) -> Result<String, FileError> {
    let file = NamedFile { flag: "--api-key-file", path };
    let text = file.read()?;
    parse(&text).map_err(|error| file.error(error))?;
    let text = String::from_utf8_lossy(&text);
    let key = entries(&text).next().and_then(|(_, line)| line.split_whitespace().last());
    key.map(str::to_owned).ok_or_else(|| file.error(KeyError::Empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "sk-alice-0123456789";
    const OTHER: &str = "sk-other-0123456789+/=";

    fn error(text: &str) -> KeyError {
        parse(text.as_bytes()).err().unwrap_or_else(|| panic!("{text:?} was read"))
    }

    #[test]
    fn each_key_is_known_by_its_name_or_its_line() {
        let ring =
            parse(format!("# of the team\r\n\r\n alice \t{ALICE}\r\n#bob x\n{OTHER}\n").as_bytes()).expect("keys");
        let name = |shown: &str| ring.caller(shown.as_bytes()).map(|name| name.to_string());
        assert_eq!(name(ALICE).as_deref(), Some("alice"));
        assert_eq!(name(OTHER).as_deref(), Some("line-5"));
        for wrong in ["", "x", "alice", &ALICE[1..], &format!("{ALICE} "), &OTHER.to_uppercase()] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn errors_have_lines_and_no_keys() {
        assert_eq!(parse(b"\xff").err(), Some(KeyError::NoText));
        assert_eq!(error(""), KeyError::Empty);
        assert_eq!(error("# nothing\n\n"), KeyError::Empty);
        assert_eq!(error(&format!("\na b {ALICE}")), KeyError::Words { line: 2, words: 3 });
        // A name behind its key, and a name that is none.
        assert_eq!(error(&format!("{ALICE} alice")), KeyError::Short { line: 1, chars: 5 });
        assert_eq!(error(&format!("a:b {ALICE}")), KeyError::Name { line: 1 });
        assert_eq!(error("ключ-ключ-ключ-ключ"), KeyError::Characters { line: 1 });
        assert_eq!(error(&format!("{OTHER}\na {ALICE}\nb {ALICE}")), KeyError::Twice { first: 2, line: 3 });
    }
}
