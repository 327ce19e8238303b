//! Devices' primary contexts, and which of them is a thread's.

use super::status::{Outcome, Status};
use super::stream::Stream;
use crate::config::{Count, config};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A device's context.
pub struct Context {
    /// The device's ordinal.
    pub device: usize,
    /// Kernel launches.
    pub launches: Count,
    /// Captures that have ended in its streams.
    pub captures: Count,
    failure: AtomicU32,
    streams: Mutex<Vec<Weak<Stream>>>,
    default: OnceLock<Arc<Stream>>,
    peers: Mutex<HashSet<usize>>,
}

static INITIALIZED: AtomicBool = AtomicBool::new(false);

thread_local!(static CURRENT: Cell<Option<usize>> = const { Cell::new(None) });

/// The handle of device 0's context. They are not in a table, as they last as long as the process.
const FIRST_HANDLE: usize = 0x1000;
const HANDLE_STEP: usize = 16;

/// `cuInit`.
pub fn initialize() -> Outcome {
    if config().devices == 0 {
        return Err(Status::NO_DEVICE);
    }
    INITIALIZED.store(true, Ordering::Relaxed);
    Ok(())
}

/// All contexts, in the order of devices.
pub fn contexts() -> &'static [Arc<Context>] {
    static CONTEXTS: OnceLock<Vec<Arc<Context>>> = OnceLock::new();
    CONTEXTS.get_or_init(|| (0..config().devices).map(|device| Arc::new(Context::new(device))).collect())
}

/// The context of a device.
pub fn of_device(ordinal: i32) -> Outcome<&'static Arc<Context>> {
    if !INITIALIZED.load(Ordering::Relaxed) {
        return Err(Status::NOT_INITIALIZED);
    }
    usize::try_from(ordinal).ok().and_then(|ordinal| contexts().get(ordinal)).ok_or(Status::INVALID_DEVICE)
}

/// The context with a handle.
pub fn of_handle(handle: usize) -> Outcome<&'static Arc<Context>> {
    let offset = handle.checked_sub(FIRST_HANDLE).ok_or(Status::INVALID_CONTEXT)?;
    contexts().get(offset / HANDLE_STEP).ok_or(Status::INVALID_CONTEXT)
}

/// The calling thread's context, if nothing has failed in it.
pub fn current() -> Outcome<&'static Arc<Context>> {
    let context = current_or_none().ok_or(Status::INVALID_CONTEXT)?;
    context.healthy()?;
    Ok(context)
}

/// The calling thread's context.
pub fn current_or_none() -> Option<&'static Arc<Context>> {
    CURRENT.get().and_then(|device| contexts().get(device))
}

/// Makes a context the calling thread's, or none.
pub fn set_current(context: Option<&Context>) {
    CURRENT.set(context.map(|context| context.device));
}

impl Context {
    fn new(device: usize) -> Self {
        Self {
            device,
            launches: Count::default(),
            captures: Count::default(),
            failure: AtomicU32::new(0),
            streams: Mutex::default(),
            default: OnceLock::new(),
            peers: Mutex::default(),
        }
    }

    /// Its handle.
    pub fn handle(&self) -> usize {
        FIRST_HANDLE + HANDLE_STEP * self.device
    }

    /// What has failed in it for good.
    pub fn healthy(&self) -> Outcome {
        match self.failure.load(Ordering::SeqCst) {
            0 => Ok(()),
            code => Err(Status(code)),
        }
    }

    /// The first failure stays.
    pub fn fail(&self, status: Status) {
        // If there is one already, that one stays.
        let _ = self.failure.compare_exchange(0, status.0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The default stream.
    pub fn default_stream(self: &Arc<Self>) -> Outcome<Arc<Stream>> {
        if let Some(stream) = self.default.get() {
            return Ok(stream.clone());
        }
        let stream = Stream::start(self)?;
        Ok(self.default.get_or_init(|| stream).clone())
    }

    /// Streams that have not been destroyed.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| stream.strong_count() > 0);
        streams.iter().filter_map(Weak::upgrade).collect()
    }

    /// A stream has been made.
    pub fn add_stream(&self, stream: &Arc<Stream>) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(stream));
    }

    /// Waits for all its streams.
    pub fn synchronize(&self) -> Outcome {
        self.streams().iter().try_for_each(|stream| stream.synchronize())
    }

    /// Lets its kernels access another device's memory.
    pub fn enable_peer(&self, device: usize) -> Outcome {
        if device == self.device {
            return Err(Status::INVALID_DEVICE);
        }
        if !config().peers(self.device, device) {
            return Err(Status::PEER_ACCESS_UNSUPPORTED);
        }
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.insert(device) { Ok(()) } else { Err(Status::PEER_ACCESS_ALREADY_ENABLED) }
    }

    /// Takes back the access that `enable_peer` gave.
    pub fn disable_peer(&self, device: usize) -> Outcome {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.remove(&device) { Ok(()) } else { Err(Status::PEER_ACCESS_NOT_ENABLED) }
    }

    /// Whether its kernels may access a device's memory.
    pub fn can_access(&self, device: usize) -> bool {
        device == self.device || self.peers.lock().unwrap_or_else(PoisonError::into_inner).contains(&device)
    }
}
