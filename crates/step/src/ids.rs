//! Identifiers. Each is unique over the life of one coordinator, and never reused.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One sequence of tokens that the model continues: a request has one, or `best_of` of them.
    SeqId(u64)
);
id!(
    /// One forward pass over a batch. Ranks run steps in the order of their ids.
    StepId(u64)
);
id!(
    /// One block of the paged KV cache: [`crate::BLOCK_TOKENS`] tokens, in every layer, on every rank.
    BlockId(u32)
);
