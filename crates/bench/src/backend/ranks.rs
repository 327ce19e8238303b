//! The ranks, each on a thread that owns it.

use super::steps::{Runner, Work};
use super::{BATCHES, BenchError, CONTEXT, DECODE_STEPS, PROMPTS, Place, Subject};
use ::backend::Backend;
use forward::{Capacity, Falcon, ModelRunner};
use model::Partition;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use step::BLOCK_TOKENS;
use testkit::RandomWeights;

/// Ranks that wait for work.
pub(super) struct Ranks {
    ranks: Vec<Rank>,
}

struct Rank {
    work: Sender<Work>,
    done: Receiver<Result<Vec<Duration>, BenchError>>,
}

impl Ranks {
    /// Makes the ranks, lets `measure` use them, and ends them.
    pub(super) fn run<B: Backend, T>(
        subject: &Subject<'_, B>,
        ranks: usize,
        threads: usize,
        measure: impl FnOnce(&Self) -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        let (config, open) = (subject.config, subject.open);
        std::thread::scope(|scope| {
            let start = |rank| {
                let (work, work_from) = channel();
                let (done_to, done) = channel();
                let place = Place { rank, ranks, threads };
                scope.spawn(move || {
                    let ready = make(config, open, place);
                    let (ready, runner) = match ready {
                        Ok(runner) => (Ok(Vec::new()), Some(runner)),
                        Err(error) => (Err(error), None),
                    };
                    // Where nobody listens, the channels end both loops.
                    let _ = done_to.send(ready);
                    let Some(mut runner) = runner else { return };
                    for work in work_from {
                        let times = runner.run(work).map_err(|error| BenchError::Step { rank, error });
                        let _ = done_to.send(times);
                    }
                });
                Rank { work, done }
            };
            let ranks = Self { ranks: (0..ranks).map(start).collect() };
            ranks.wait()?;
            measure(&ranks)
        })
    }

    /// Has all ranks do the same; what rank 0 took for each step that counts.
    pub(super) fn all(&self, work: Work) -> Result<Vec<Duration>, BenchError> {
        for (rank, Rank { work: to, .. }) in self.ranks.iter().enumerate() {
            to.send(work).map_err(|_| BenchError::Gone { rank })?;
        }
        self.wait()
    }

    fn wait(&self) -> Result<Vec<Duration>, BenchError> {
        let wait = |(rank, Rank { done, .. }): (usize, &Rank)| done.recv().map_err(|_| BenchError::Gone { rank })?;
        let mut times = self.ranks.iter().enumerate().map(wait).collect::<Result<Vec<_>, _>>()?;
        Ok(times.swap_remove(0))
    }
}

type Open<'a, B> = &'a (dyn Fn(Place) -> Result<B, ::backend::BackendError> + Sync);

fn make<B: Backend>(config: &model::FalconConfig, open: Open<'_, B>, place: Place) -> Result<Runner<B>, BenchError> {
    let rank = place.rank;
    let failed = |error| BenchError::Backend { rank, error };
    let partition = Partition::new(config, rank, place.ranks);
    let blocks = |tokens: usize| tokens.div_ceil(BLOCK_TOKENS);
    let batch_max = BATCHES[BATCHES.len() - 1];
    let capacity = Capacity {
        kv_blocks: blocks(PROMPTS[0]).max(batch_max * blocks(CONTEXT + DECODE_STEPS + 1)),
        rows_max: PROMPTS[0].max(batch_max * CONTEXT),
        logits_rows_max: 2 * batch_max,
    };
    let backend = open(place).map_err(failed)?;
    let falcon = Falcon::load(backend, config, &partition, capacity, &RandomWeights::new(0)).map_err(failed)?;
    Ok(Runner::new(ModelRunner::new(falcon), config.vocab))
}
