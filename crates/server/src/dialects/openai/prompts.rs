//! The prompts of a completion request.

use api::Prompt;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use std::fmt;

/// One prompt or several, each a text or token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts(pub Vec<Prompt>);

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Outer)
    }
}

/// Reads a list without holding it twice: its first element says what the others are.
struct Outer;

impl<'de> Visitor<'de> for Outer {
    type Value = Prompts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids, or a list of lists of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompts, E> {
        Ok(Prompts(vec![Prompt::Text(text.to_owned())]))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Prompts, E> {
        Ok(Prompts(vec![Prompt::Text(text)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts, A::Error> {
        Ok(Prompts(match list.next_element()? {
            None => vec![Prompt::Ids(Vec::new())],
            Some(Element::Id(first)) => vec![Prompt::Ids(rest(first, &mut list)?)],
            Some(Element::Text(first)) => rest(first, &mut list)?.into_iter().map(Prompt::Text).collect(),
            Some(Element::Ids(first)) => rest(first, &mut list)?.into_iter().map(Prompt::Ids).collect(),
        }))
    }
}

/// All elements of a list, of which the first has been read.
fn rest<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(first: T, list: &mut A) -> Result<Vec<T>, A::Error> {
    let mut all = vec![first];
    while let Some(next) = list.next_element()? {
        all.push(next);
    }
    Ok(all)
}

/// The first element of a list.
enum Element {
    Id(u32),
    Text(String),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Inner)
    }
}

struct Inner;

impl<'de> Visitor<'de> for Inner {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        u32::try_from(id).map(Element::Id).map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        let first = list.next_element()?;
        Ok(Element::Ids(first.map_or_else(|| Ok(Vec::new()), |first| rest(first, &mut list))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn each_form_is_read() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        let rows: [(Value, Vec<Prompt>); 7] = [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![Prompt::Ids(vec![1, 2])]),
            (json!([[1, 2], [], [3]]), vec![Prompt::Ids(vec![1, 2]), Prompt::Ids(vec![]), Prompt::Ids(vec![3])]),
            (json!([]), vec![Prompt::Ids(vec![])]),
            (json!([[]]), vec![Prompt::Ids(vec![])]),
            (json!([""]), vec![text("")]),
        ];
        for (value, expected) in rows {
            let read: Prompts = from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"));
            assert_eq!(read.0, expected, "{value}");
        }
        for wrong in
            [json!(1), json!({}), json!([1, "a"]), json!(["a", [1]]), json!([-1]), json!([[1.5]]), json!([1u64 << 32])]
        {
            assert!(from_value::<Prompts>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
