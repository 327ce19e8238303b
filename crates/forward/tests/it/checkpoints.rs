//! Folders as transformers writes them: each gives what transformers answers, or is refused by name.

use crate::support::{generate, load, on_all_ranks};
use forward::ModelRunner;
use testkit::goldens::{Tolerance, checkpoints};
use weights::Checkpoint;

#[test]
fn every_checkpoint_answers_as_transformers_does_or_is_refused_by_name() {
    let (mut equal, mut refused) = (0, 0);
    for case in checkpoints() {
        let Some((prompt, new_tokens)) = case.prompt() else {
            let error = Checkpoint::open(&case.dir).err().map(|error| error.to_string());
            assert_eq!(case.check_refusal(error.as_deref()), [""; 0]);
            let again = Checkpoint::open(&case.dir).err().map(|error| error.to_string());
            assert_eq!(error, again, "{}: the same words each time", case.name);
            refused += 1;
            continue;
        };
        for world in [1, 3] {
            let observed = on_all_ranks(world, |rank| {
                generate(&mut ModelRunner::new(load(&case.dir, rank).1), prompt, new_tokens, 7)
            });
            for (rank, observed) in observed.iter().enumerate() {
                assert_eq!(case.check(observed, Tolerance::F32), [""; 0], "rank {rank} of {world}");
            }
        }
        equal += 1;
    }
    println!("{equal} equal, {refused} refused");
    assert!(equal > 0 && refused > 0);
}
