//! `CUresult`.

use std::ffi::CStr;

/// A `CUresult` that is no success. The names are the driver's, without `CUDA_ERROR_`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u32);

macro_rules! statuses {
    ($($name:ident = $code:literal: $text:literal,)*) => {
        impl Status {
            $(#[doc = $text] pub const $name: Self = Self($code);)*

            /// The enumerator.
            pub fn name(self) -> &'static CStr {
                match self {
                    $(Self::$name => const {
                        match CStr::from_bytes_with_nul(concat!("CUDA_ERROR_", stringify!($name), "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => panic!("a name has no zero byte"),
                        }
                    },)*
                    Self(0) => c"CUDA_SUCCESS",
                    _ => c"CUDA_ERROR",
                }
            }

            /// The description that `cuGetErrorString` gives.
            pub fn text(self) -> &'static CStr {
                match self {
                    $(Self::$name => const {
                        match CStr::from_bytes_with_nul(concat!($text, "\0").as_bytes()) {
                            Ok(text) => text,
                            Err(_) => panic!("a text has no zero byte"),
                        }
                    },)*
                    Self(0) => c"no error",
                    _ => c"unrecognized error code",
                }
            }
        }
    };
}

statuses! {
    INVALID_VALUE = 1: "invalid argument",
    OUT_OF_MEMORY = 2: "out of memory",
    NOT_INITIALIZED = 3: "initialization error",
    NO_DEVICE = 100: "no CUDA-capable device is detected",
    INVALID_DEVICE = 101: "invalid device ordinal",
    INVALID_IMAGE = 200: "device kernel image is invalid",
    INVALID_CONTEXT = 201: "invalid device context",
    ECC_UNCORRECTABLE = 214: "uncorrectable ECC error encountered",
    PEER_ACCESS_UNSUPPORTED = 217: "peer access is not supported between these two devices",
    INVALID_PTX = 218: "a PTX JIT compilation failed",
    FILE_NOT_FOUND = 301: "file not found",
    INVALID_HANDLE = 400: "invalid resource handle",
    NOT_FOUND = 500: "named symbol not found",
    NOT_READY = 600: "device not ready",
    ILLEGAL_ADDRESS = 700: "an illegal memory access was encountered",
    LAUNCH_OUT_OF_RESOURCES = 701: "too many resources requested for launch",
    LAUNCH_TIMEOUT = 702: "the launch timed out and was terminated",
    PEER_ACCESS_ALREADY_ENABLED = 704: "peer access is already enabled",
    PEER_ACCESS_NOT_ENABLED = 705: "peer access has not been enabled",
    MISALIGNED_ADDRESS = 716: "misaligned address",
    LAUNCH_FAILED = 719: "unspecified launch failure",
    COOPERATIVE_LAUNCH_TOO_LARGE = 720: "too many blocks in cooperative launch",
    NOT_SUPPORTED = 801: "operation not supported",
    STREAM_CAPTURE_UNSUPPORTED = 900: "operation not permitted when stream is capturing",
    STREAM_CAPTURE_INVALIDATED = 901: "operation failed due to a previous error during capture",
    STREAM_CAPTURE_MERGE = 902: "operation would result in a merge of separate capture sequences",
    STREAM_CAPTURE_UNMATCHED = 903: "capture was not ended in the same stream as it began",
    STREAM_CAPTURE_UNJOINED = 904: "capturing stream has unjoined work",
    STREAM_CAPTURE_ISOLATION = 905: "dependency created on uncaptured work in another stream",
    STREAM_CAPTURE_IMPLICIT = 906: "operation would make the legacy stream depend on a capturing blocking stream",
    CAPTURED_EVENT = 907: "operation not permitted on an event last recorded in a capturing stream",
    STREAM_CAPTURE_WRONG_THREAD = 908: "attempt to terminate a thread-local capture sequence from another thread",
    UNKNOWN = 999: "unknown error",
}

/// What a driver call gives.
pub type Outcome<T = ()> = Result<T, Status>;
