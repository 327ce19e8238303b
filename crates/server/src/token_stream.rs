//! A request that is under way: its tokens as they come, and the answer that they make.

use crate::Error;
use crate::admission::Permit;

use crate::reader::{Hold, Reader};
use crate::sequence::Sequence;
use crate::telemetry::{Generated, GenerationGuard, Outcome};
use api::{Answer, Completion, FinishReason, PromptToken, Timings, TokenEvent, ValidRequest};
use coordinator::{Generation, Update};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use text::{StopMatcher, Tokenizer};
use tokio::time::Instant;

/// A request that is under way, or several that came as one. Its continuations run side by side, and their tokens come as they are
/// made. Dropping it ends them all.
pub struct TokenStream {
    sequences: Vec<Sequence>,
    reader: Reader,
    /// Which sequence is asked first.
    turn: usize,
    /// How many have not ended.
    open: usize,
    arrival: Arrival,
    /// Is told how the request goes.
    guard: GenerationGuard,
}

/// When a request came, and when its sequences were queued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) received: Instant,
    pub(crate) queued: Instant,
}

/// One sequence that has been submitted.
pub(crate) struct Submitted {
    pub(crate) generation: Generation,
    pub(crate) permit: Permit,
    pub(crate) request: Arc<ValidRequest>,
    /// Which continuation of the request it is.
    pub(crate) choice: usize,
    /// The request's stop strings.
    pub(crate) stops: StopMatcher,
}

impl TokenStream {
    pub(crate) fn new(
        submitted: Vec<Submitted>,
        tokenizer: &Tokenizer,
        arrival: Arrival,
        guard: GenerationGuard,
    ) -> Self {
        let (mut sequences, mut hold) = (Vec::new(), Hold::default());
        for Submitted { generation, permit, request, choice, stops } in submitted {
            sequences.push(Sequence::new(request, choice, tokenizer.clone(), stops));
            hold.add(generation, permit);
        }
        Self { open: sequences.len(), sequences, reader: Reader::new(hold), turn: 0, arrival, guard }
    }

    /// Ends the request and returns its permits at the deadline, and when tokens lie untouched for `stall_limit`: a reader who has
    /// stopped reading holds nothing beyond that but the tokens that it was sent.
    pub(crate) fn end_without_reader(&mut self, deadline: Option<Instant>, stall_limit: Option<Duration>) {
        self.reader.watch(deadline, stall_limit);
    }

    /// How many continuations there are.
    #[must_use]
    pub fn continuations(&self) -> usize {
        self.sequences.len()
    }

    /// What was asked for, by continuation `index`.
    #[must_use]
    pub fn request(&self, index: usize) -> &ValidRequest {
        self.sequences[index].request()
    }

    /// The visible text of continuation `index` so far; all of it once its last token has come.
    #[must_use]
    pub fn text(&self, index: usize) -> &str {
        self.sequences[index].text()
    }

    /// What nobody has taken yet of the visible text of continuation `index`, as far as no stop string can take it back.
    #[must_use]
    pub fn take_text(&mut self, index: usize) -> &str {
        self.sequences[index].take_text()
    }

    /// How many tokens continuation `index` has so far.
    #[must_use]
    pub fn generated_tokens(&self, index: usize) -> u32 {
        self.sequences[index].generated_tokens()
    }

    /// The seed of continuation `index`; `None` if its choices are greedy.
    #[must_use]
    pub fn seed(&self, index: usize) -> Option<u64> {
        self.sequences[index].seed()
    }

    /// How many tokens of the prompt of continuation `index` the prefix cache had. Known with the first token.
    #[must_use]
    pub fn cached_tokens(&self, index: usize) -> u32 {
        self.sequences[index].cached_tokens()
    }

    /// The prompt of continuation `index`. Log-probabilities, if they were asked for, are there with the first token of its request's
    /// first continuation.
    #[must_use]
    pub fn prompt(&self, index: usize) -> Vec<PromptToken> {
        let first = index - self.sequences[index].choice();
        self.sequences[first].prompt()
    }

    /// How long the request of continuation `index` has spent where so far.
    #[must_use]
    pub fn timings(&self, index: usize) -> Timings {
        let first = index - self.sequences[index].choice();
        self.timings_of(&self.sequences[first..first + self.sequences[first].request().best_of])
    }

    fn timings_of(&self, sequences: &[Sequence]) -> Timings {
        let Arrival { received, queued } = self.arrival;
        let now = Instant::now();
        let started = sequences.iter().filter_map(Sequence::started).min().unwrap_or(now);
        let ended = match sequences.iter().any(Sequence::is_open) {
            true => now,
            false => sequences.iter().filter_map(Sequence::latest).max().unwrap_or(started),
        };
        Timings { validation: queued - received, queue: started - queued, inference: ended - started }
    }

    /// The next token of any continuation; `None` after the last one of all.
    ///
    /// # Errors
    ///
    /// [`Error::Generation`] if the model fails at it, [`Error::Lost`] if it fails for good, [`Error::Incomplete`] if the server ends,
    /// [`Error::Stalled`] if the reader had stood still. All continuations have ended then.
    pub async fn next(&mut self) -> Result<Option<TokenEvent>, Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same for those who poll.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<TokenEvent>, Error>> {
        loop {
            match self.poll_update(cx) {
                Poll::Pending if self.open > 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(None)),
                Poll::Ready((index, update)) => match self.take(index, update) {
                    Ok(None) => {}
                    Ok(event) => return Poll::Ready(Ok(event)),
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
    }

    /// The next token, if it is there already.
    ///
    /// # Errors
    ///
    /// As [`TokenStream::next`].
    pub fn try_next(&mut self) -> Result<Option<TokenEvent>, Error> {
        for step in 0..self.sequences.len() {
            let index = (self.turn + step) % self.sequences.len();
            while self.sequences[index].is_open() {
                let Some(update) = self.reader.hold().try_next(index) else { break };
                if let Some(event) = self.take(index, Some(update))? {
                    return Ok(Some(event));
                }
            }
        }
        Ok(None)
    }

    /// Whether every continuation has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.open == 0
    }

    /// Runs to the end. There is one answer for each of the requests, in their order.
    ///
    /// # Errors
    ///
    /// As [`TokenStream::next`].
    pub async fn finish(mut self) -> Result<Vec<Answer>, Error> {
        let mut tokens: Vec<Vec<TokenEvent>> = self.sequences.iter().map(|_| Vec::new()).collect();
        while let Some(event) = self.next().await? {
            tokens[event.index].push(event);
        }
        let firsts = (0..self.sequences.len()).filter(|&index| self.sequences[index].choice() == 0);
        Ok(firsts.map(|first| self.answer(first, &mut tokens)).collect())
    }

    /// The answer to the request whose first continuation is `first`.
    fn answer(&self, first: usize, tokens: &mut [Vec<TokenEvent>]) -> Answer {
        let request = self.sequences[first].request();
        let completions = (first..first + request.best_of).map(|index| Completion {
            text: self.text(index).to_owned(),
            finish: tokens[index].last().and_then(|event| event.finish).unwrap_or(FinishReason::Length),
            seed: self.seed(index),
            tokens: std::mem::take(&mut tokens[index]),
        });
        Answer {
            completions: best_first(completions.collect(), request.n),
            prompt: self.prompt(first),
            cached_tokens: self.cached_tokens(first),
            timings: self.timings(first),
        }
    }

    /// The next update of any sequence; pending, too, when all have ended.
    fn poll_update(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Option<Update>)> {
        let mut hold = self.reader.hold();
        for step in 0..self.sequences.len() {
            let index = (self.turn + step) % self.sequences.len();
            if self.sequences[index].is_open()
                && let Poll::Ready(update) = hold.poll_next(index, cx)
            {
                return Poll::Ready((index, update));
            }
        }
        Poll::Pending
    }

    /// Takes an update; there is none if the coordinator has ended.
    fn take(&mut self, index: usize, update: Option<Update>) -> Result<Option<TokenEvent>, Error> {
        self.turn = (index + 1) % self.sequences.len();
        let before = self.sequences[index].latest();
        let result = match update {
            Some(update) => self.sequences[index].take(index, update),
            None => Err(self.reader.hold().why_ended()),
        };
        if let (Ok(Some(_)), Some(now)) = (&result, self.sequences[index].latest()) {
            match before {
                Some(before) => self.guard.next_token(now - before),
                None if self.guard.generated.first_token.is_none() => {
                    self.guard.first_token(now - self.arrival.received);
                }
                None => {}
            }
        }
        match &result {
            Ok(Some(TokenEvent { finish: Some(finish), .. })) => {
                self.guard.generated.finished.push(*finish);
                self.open -= 1;
                // What it held is free for others, although its siblings go on.
                self.reader.hold().release(index);
                if self.open == 0 {
                    self.guard.outcome = Outcome::Success;
                }
            }
            Ok(_) => {}
            Err(error) => {
                self.guard.outcome = Outcome::from(error);
                self.end_all();
            }
        }
        result
    }

    fn end_all(&mut self) {
        self.open = 0;
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            sequence.close();
            self.reader.hold().release(index);
        }
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        let sequences = &self.sequences;
        // Those of one request have one prompt.
        let requests = || sequences.iter().filter(|sequence| sequence.choice() == 0);
        // Sequences of one request share steps. Their numbers begin anew when the ranks do.
        let mut steps: Vec<_> = sequences.iter().flat_map(|sequence| sequence.steps().iter().cloned()).collect();
        steps.sort_by_key(|step| step.begun);
        steps.dedup_by_key(|step| step.begun);
        *self.guard.generated = Generated {
            steps,
            arrived: Some(self.arrival.received),
            sequences: sequences.len(),
            prompt_tokens: requests().map(|sequence| sequence.request().prompt.len() as u32).sum(),
            cached_tokens: requests().map(Sequence::cached_tokens).sum(),
            max_tokens: sequences.iter().map(|sequence| sequence.request().max_tokens).sum(),
            tokens: sequences.iter().map(Sequence::generated_tokens).sum(),
            timings: self.timings_of(sequences),
            texts: self.guard.wants_texts().then(|| (sequences[0].prompt_text(), sequences[0].text().to_owned())),
            ..std::mem::take(&mut *self.guard.generated)
        };
    }
}

/// The best `n`, if there are more, before the others.
fn best_first(mut completions: Vec<Completion>, n: usize) -> Vec<Completion> {
    if completions.len() > n {
        let mean = |completion: &Completion| {
            let logprobs = completion.tokens.iter().map(|event| event.token.logprob);
            logprobs.sum::<f32>() / completion.tokens.len() as f32
        };
        let mut order: Vec<usize> = (0..completions.len()).collect();
        // Stable: of equals the first is better.
        order.sort_by(|&a, &b| mean(&completions[b]).total_cmp(&mean(&completions[a])));
        order[n..].sort_unstable();
        let mut left: Vec<Option<Completion>> = completions.drain(..).map(Some).collect();
        completions.extend(order.into_iter().filter_map(|index| left[index].take()));
    }
    completions
}
