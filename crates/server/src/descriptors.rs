//! The limit of file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the hard limit is infinite. The kernel allows no process more than this by default (`fs.nr_open`).
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit of file descriptors to the hard one: each connection takes one, and the usual soft limit of 1,024 is only
/// for programs that call `select`. Returns the limit that holds from now on.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Some(maximum.unwrap_or(UNLIMITED));
    // Where it is refused, the limit stays as it is, and accepting pauses earlier.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: raised, maximum });
    descriptor_limit()
}

/// The soft limit of file descriptors.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)
}
