//! The suites hold for the measure itself, and for ranks within a process.

use backend::{Reference, Threads};
use testkit::conformance::{MakeRank, Subject};
use testkit::{collective_suite, conformance_suite};

conformance_suite!(reference, subject());
collective_suite!(threads, Threads::connect_within);

fn subject() -> Subject<Reference<Threads>> {
    let rank = |end| Box::new(move || Reference::new(end)) as MakeRank<Reference<Threads>>;
    let ranks = move |world| Threads::connect(world).into_iter().map(rank).collect();
    Subject { ranks: Box::new(ranks), tolerance: 0.0 }
}
