//! Opaque handles of the C interfaces. A handle is a number in a table, so that one which is stale or made up is an error
//! and not a wild pointer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// The objects of one kind that callers hold handles of.
pub struct Handles<T> {
    objects: LazyLock<Mutex<HashMap<usize, Arc<T>>>>,
}

/// Small numbers mean default streams, and pointers are aligned: look like one.
const FIRST: usize = 0x10000;
const STEP: usize = 16;

/// Over all kinds, so that no handle is valid for two.
static NEXT: AtomicUsize = AtomicUsize::new(FIRST);

impl<T> Handles<T> {
    /// With none yet.
    pub const fn new() -> Self {
        Self { objects: LazyLock::new(Mutex::default) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Arc<T>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new handle.
    pub fn add(&self, object: Arc<T>) -> usize {
        let handle = NEXT.fetch_add(STEP, Ordering::Relaxed);
        self.lock().insert(handle, object);
        handle
    }

    /// What a handle stands for.
    pub fn get(&self, handle: usize) -> Option<Arc<T>> {
        self.lock().get(&handle).cloned()
    }

    /// Ends a handle.
    pub fn remove(&self, handle: usize) -> Option<Arc<T>> {
        self.lock().remove(&handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_valid_until_it_is_removed() {
        static NUMBERS: Handles<u32> = Handles::new();
        let (a, b) = (NUMBERS.add(Arc::new(1)), NUMBERS.add(Arc::new(2)));
        assert_eq!((NUMBERS.get(a).as_deref(), NUMBERS.get(b).as_deref()), (Some(&1), Some(&2)));
        assert_eq!(NUMBERS.remove(a).as_deref(), Some(&1));
        assert!(NUMBERS.get(a).is_none() && NUMBERS.remove(a).is_none() && NUMBERS.get(0).is_none());
    }
}
