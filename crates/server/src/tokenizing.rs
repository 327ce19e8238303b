//! The threads that tokenize.

use crate::Error;
use api::{Limits, Violation};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};
use text::{Tokenizer, TokenizerError};
use tokio::sync::oneshot;

/// What is said to whoever finds the queue full. A place in it is free again after some milliseconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&Tokenizer) + Send>;

/// A fixed number of threads that tokenize, with a bounded queue. Tokenizing a long text takes long, and the threads of the
/// runtime also lead the ranks. Clones share the threads, which end with the last of them.
#[derive(Clone)]
pub struct TokenizerPool {
    tokenizer: Tokenizer,
    threads: usize,
    jobs: SyncSender<Job>,
}

impl TokenizerPool {
    /// Starts `threads` threads, for which up to `queue_max` texts may wait.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub fn start(tokenizer: Tokenizer, threads: usize, queue_max: usize) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(queue_max);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads {
            let (queue, tokenizer) = (queue.clone(), tokenizer.clone());
            thread::Builder::new().name(format!("tokenizer-{index}")).spawn(move || work(&queue, &tokenizer))?;
        }
        Ok(Self { tokenizer, threads, jobs })
    }

    /// How many threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The tokenizer, for what takes no time.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Runs `job` on one of the threads. Whoever drops the future ends it: before it has begun, or when it next asks whether
    /// it goes on.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Tokenizer, &dyn Fn() -> bool) -> Result<T, Violation> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let job = move |tokenizer: &Tokenizer| {
            if answer.is_closed() {
                return;
            }
            // A panic is the end of this job, not of the thread; its caller then gets no answer.
            let result = catch_unwind(AssertUnwindSafe(|| job(tokenizer, &|| !answer.is_closed())));
            if let Ok(result) = result {
                let _ = answer.send(result);
            }
        };
        self.jobs.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => Error::Overloaded { retry_after: RETRY_AFTER },
            TrySendError::Disconnected(_) => failed(),
        })?;
        Ok(answered.await.map_err(|_| failed())??)
    }
}

fn failed() -> Error {
    Error::Generation { reason: "the tokenizer failed; the log says why".to_owned() }
}

fn work(queue: &Mutex<Receiver<Job>>, tokenizer: &Tokenizer) {
    loop {
        // The lock is held while waiting: whoever has it takes the next job, and lets the next one wait.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(tokenizer),
            Err(_) => return,
        }
    }
}

/// Makes the tokens of prompts.
pub(crate) struct PromptEncoder<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) limits: &'a Limits,
    /// Keep so many, from the end.
    pub(crate) truncate: Option<usize>,
    /// Whether somebody still waits for them; see [`TokenizerPool::run`].
    pub(crate) goes_on: &'a dyn Fn() -> bool,
}

impl PromptEncoder<'_> {
    /// The tokens of a text; all within the model's vocabulary.
    pub(crate) fn text(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Violation> {
        let Self { tokenizer, limits, truncate, goes_on } = *self;
        let text = if truncate.is_some() {
            tokenizer.tail(text, limits.max_input_bytes())
        } else {
            limits.check_bytes(text)?;
            text
        };
        let keep = truncate.unwrap_or(usize::MAX);
        let ids = tokenizer.encode_last(text, keep, add_special_tokens, goes_on).map_err(|error| invalid(&error))?;
        let vocab_size = limits.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(Violation::UnknownToken { token: tokenizer.decode(&[id], false), id, vocab_size }),
            None => Ok(ids),
        }
    }
}

/// A text that the tokenizer cannot encode.
pub(crate) fn invalid(error: &TokenizerError) -> Violation {
    Violation::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    fn pool(threads: usize, queue_max: usize) -> TokenizerPool {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models/tiny-falcon-7b");
        TokenizerPool::start(Tokenizer::open(&folder).expect("a tokenizer"), threads, queue_max).expect("threads")
    }

    async fn encode(pool: &TokenizerPool, vocab: usize) -> Result<Vec<u32>, Error> {
        let job = move |tokenizer: &Tokenizer, goes_on: &dyn Fn() -> bool| {
            let limits = Limits::of_model(64, vocab, tokenizer.token_bytes_max());
            PromptEncoder { tokenizer, limits: &limits, truncate: None, goes_on }.text("Once", true)
        };
        pool.run(job).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn texts_are_encoded_and_panics_are_answered() {
        let pool = pool(2, 4);
        for _ in 0..3 {
            let panicked = pool.run(|_, _| -> Result<(), _> { panic!("on purpose") }).await;
            assert!(matches!(panicked, Err(Error::Generation { .. })));
            assert_eq!(encode(&pool, 1024).await, Ok(vec![572]));
        }
        let beyond = encode(&pool, 500).await.expect_err("572 is beyond").to_string();
        assert_eq!(beyond, "`prompt` has the token `Once` (572), but the model's vocabulary has 500 tokens");
    }

    /// One job holds the only thread, another waits, a third is refused. The job of a caller who is gone never runs if it
    /// waits, and learns of it if it runs.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_queue_is_bounded_and_whoever_is_gone_ends_the_work() {
        let pool = pool(1, 1);
        let (started, has_started) = channel();
        let (ended, has_ended) = channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                let job = move |_: &Tokenizer, goes_on: &dyn Fn() -> bool| {
                    started.send(()).expect("the test waits");
                    while goes_on() {
                        thread::sleep(Duration::from_millis(1));
                    }
                    ended.send(()).expect("the test waits");
                    Ok(())
                };
                pool.run(job).await
            }
        });
        has_started.recv().expect("it starts");
        let runs = Arc::new(AtomicUsize::new(0));
        let count = |runs: &Arc<AtomicUsize>| {
            let runs = runs.clone();
            move |_: &Tokenizer, _: &dyn Fn() -> bool| Ok(runs.fetch_add(1, Ordering::SeqCst))
        };
        // The second waits in the queue, whose only place it keeps when its caller has gone.
        let second = tokio::time::timeout(Duration::from_millis(20), pool.run(count(&runs))).await;
        assert!(second.is_err(), "{second:?} while the thread is busy");
        let third = pool.run(count(&runs)).await;
        assert!(matches!(third, Err(Error::Overloaded { .. })), "{third:?}");
        first.abort();
        has_ended.recv().expect("it ends");
        // The thread goes on to whoever is still there, past those who are gone.
        let last = loop {
            match pool.run(count(&runs)).await {
                Err(Error::Overloaded { .. }) => tokio::task::yield_now().await,
                other => break other,
            }
        };
        assert_eq!(last, Ok(0));
    }
}
