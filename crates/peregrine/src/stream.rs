//! Answers as they come.

use crate::output::print;
use anyhow::{Result, anyhow};
use std::time::Instant;
use text::StopMatcher;
use tonic::{Response, Status, Streaming};
use wire::generation as pb;

/// Prints an answer token by token, without what a stop string may still take back.
pub struct Printer {
    /// What has been printed.
    shown: String,
    /// All that the tokens say.
    said: String,
    stops: StopMatcher,
    /// Nothing is known to be part of the answer before its end.
    holds_all: bool,
    /// White space at the start is left out.
    trims_start: bool,
}

impl Printer {
    /// What may be the beginning of one of `stops` is held back.
    pub fn new(stops: &[String]) -> Self {
        let (shown, said) = (String::new(), String::new());
        Self { shown, said, stops: StopMatcher::new(stops), holds_all: false, trims_start: false }
    }

    /// Without white space at the start, which the model writes behind its name.
    pub fn of_a_chat(self) -> Self {
        Self { trims_start: true, ..self }
    }

    /// Behind a prompt that is printed already; an empty one is known at the end only.
    pub fn behind(self, prompt: &str) -> Self {
        Self { shown: prompt.to_owned(), said: prompt.to_owned(), holds_all: prompt.is_empty(), ..self }
    }

    /// What has been printed so far.
    pub fn into_shown(self) -> String {
        self.shown
    }

    /// What a message adds to it.
    fn piece(&mut self, message: &pb::GenerateStreamResponse) -> String {
        let tokens = message.tokens.iter().filter(|token| !token.special).map(|token| &*token.text);
        let text: String = tokens.collect();
        let stopped = self.stops.push(&text).is_some();
        let trims_start = self.trims_start;
        let trimmed = |text: &str| if trims_start { text.trim_start().to_owned() } else { text.to_owned() };
        self.said += &if self.said.is_empty() { trimmed(&text) } else { text.clone() };
        let piece = match &message.generated_text {
            // The last message has the whole text, which may end within its last token. It does not begin with what was
            // shown where a special token came within a character.
            Some(whole) => trimmed(whole).strip_prefix(&*self.shown).map_or(text, str::to_owned),
            None if stopped || self.holds_all => String::new(),
            None => {
                let end = self.said.len().saturating_sub(self.stops.pending()).max(self.shown.len());
                self.said[self.shown.len()..end].to_owned()
            }
        };
        self.shown += &piece;
        piece
    }

    /// Prints the text of a stream that was asked for now. Says how fast it came.
    pub async fn print(
        &mut self,
        stream: impl Future<Output = Result<Response<Streaming<pb::GenerateStreamResponse>>, Status>>,
    ) -> Result<String> {
        let begin = Instant::now();
        let mut stream = stream.await.map_err(|status| status_error(&status))?.into_inner();
        let (mut tokens, mut first) = (0, None);
        while let Some(message) = stream.message().await.map_err(|status| status_error(&status))? {
            first.get_or_insert_with(|| (begin.elapsed(), message.tokens.len()));
            tokens += message.tokens.len();
            print(&self.piece(&message))?;
        }
        let (first_after, first_tokens) = first.ok_or_else(|| anyhow!("the stream ended without a token"))?;
        let mut speed = format!("{tokens} tokens, the first after {:.0} ms", first_after.as_secs_f64() * 1e3);
        if tokens > first_tokens {
            let seconds = (begin.elapsed() - first_after).as_secs_f64();
            speed += &format!(", then {:.1} tokens/s", (tokens - first_tokens) as f64 / seconds);
        }
        Ok(speed)
    }
}

/// What a server says of a request that fails.
pub fn status_error(status: &Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str, whole: Option<&str>) -> pb::GenerateStreamResponse {
        let token = pb::Token { text: text.to_owned(), ..Default::default() };
        let generated_text = whole.map(str::to_owned);
        pb::GenerateStreamResponse { tokens: vec![token], generated_text, ..Default::default() }
    }

    #[test]
    fn a_stop_string_is_never_shown_and_what_only_begins_like_one_is() {
        let mut printer = Printer::new(&["\nUser:".to_owned()]).of_a_chat();
        let texts = ["\n", " Rome", ".\n", "\nUs", "ed", "\n", "User"];
        let pieces = texts.map(|text| printer.piece(&message(text, None)));
        assert_eq!(pieces, ["", "Rome", ".", "\n", "\nUsed", "", ""]);
        assert_eq!(printer.piece(&message(":", Some("\n Rome.\n\nUsed"))), "");
        assert_eq!(printer.into_shown(), "Rome.\n\nUsed");
    }

    #[test]
    fn the_end_may_cut_a_token_or_show_what_was_held() {
        let mut printer = Printer::new(&[]);
        assert_eq!(printer.piece(&message(" a", None)), " a");
        assert_eq!(printer.piece(&message(" stop here", Some(" a stop"))), " stop");
        let mut held = Printer::new(&[]).behind("");
        assert_eq!(held.piece(&message(" a", None)), "");
        assert_eq!(held.piece(&message(" b", Some("prompt a b"))), "prompt a b");
    }
}
