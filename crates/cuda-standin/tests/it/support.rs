//! A test runs in a process of its own, which finds the libraries under their names; so each can have its own switches.

use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::process::{Command, Output};
use sys::CUresult;

/// In the process of a test, which part it plays.
const ROLE: &str = "CUDA_STANDIN_TEST_ROLE";

/// The part that a test's own process plays.
const MAIN: &str = "main";

const NAMES: &[&str] = &["libcuda.so", "libnccl.so", "libcublasLt.so", "libnvidia-ml.so"];

/// The test's part in this process; none in the process that only starts it.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs the body in a process that finds the libraries, with these switches. It must end well.
#[track_caller]
pub fn on_standin(test: &str, switches: &[(&str, &str)], body: impl FnOnce()) {
    if role().is_some() {
        return body();
    }
    let output = start(test, switches);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} {switches:?}: {}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "there is no test `{test}`:\n{out}");
}

/// Runs the test's own process to its end.
pub fn start(test: &str, switches: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for name in NAMES {
        std::os::unix::fs::symlink(library(), folder.path().join(name)).unwrap();
    }
    let mut command = command(test, MAIN);
    command.env("LD_LIBRARY_PATH", folder.path()).env("CUDA_STANDIN_MEMORY_MB", "1024");
    command.envs(switches.iter().copied()).output().unwrap()
}

/// A process that plays a part of the test.
pub fn command(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role);
    command
}

/// Cargo builds it before the tests, beside them.
fn library() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let places = here.ancestors().skip(1).take(2).map(|folder| folder.join("libcuda_standin.so"));
    places.into_iter().find(|path| path.exists()).expect("the library is built with its tests")
}

/// Kernels of these tests: `scale(x, factor, count)`, `store(address, value)`, `spin()`.
pub const PTX: &str = r"
.version 8.2
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry scale(.param .u64 x, .param .f32 factor, .param .u32 count)
{
    .reg .pred %p<2>; .reg .b32 %r<5>; .reg .f32 %f<3>; .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [x]; ld.param.f32 %f1, [factor]; ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.u32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r2, %r1; @%p1 ret;
    cvta.to.global.u64 %rd1, %rd1; mul.wide.u32 %rd2, %r2, 4; add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f2, [%rd3]; mul.f32 %f2, %f2, %f1; st.global.f32 [%rd3], %f2;
    ret;
}
.visible .entry store(.param .u64 at, .param .u32 value)
{
    .reg .b32 %r<2>; .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [at]; ld.param.u32 %r1, [value]; st.global.u32 [%rd1], %r1; ret;
}
.visible .entry spin() { $L: nanosleep.u32 100; bra $L; }
";

/// A context, a stream and the kernels.
pub struct Device {
    pub context: sys::CUcontext,
    pub stream: sys::CUstream,
    module: sys::CUmodule,
}

impl Device {
    /// On a device by its number.
    pub fn new(ordinal: i32) -> Self {
        result::init().unwrap();
        let device = result::device::get(ordinal).unwrap();
        // SAFETY: the device exists, and the context is this thread's from here on.
        unsafe {
            let context = result::primary_ctx::retain(device).unwrap();
            result::ctx::set_current(context).unwrap();
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
            Self { context, stream, module: load(PTX).unwrap() }
        }
    }

    /// A kernel by its name.
    pub fn kernel(&self, name: &str) -> sys::CUfunction {
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.module, CString::new(name).unwrap()) }.unwrap()
    }

    /// Launches `scale` over all of `count` floats.
    pub fn scale(&self, x: u64, factor: f32, count: u32) {
        let (mut x, mut factor, mut count) = (x, factor, count);
        let blocks = count.div_ceil(64);
        self.launch("scale", blocks, 0, &mut [pointer(&mut x), pointer(&mut factor), pointer(&mut count)]).unwrap();
    }

    /// Launches `store`.
    pub fn store(&self, at: u64, value: u32) -> Result<(), CUresult> {
        let (mut at, mut value) = (at, value);
        self.launch("store", 1, 0, &mut [pointer(&mut at), pointer(&mut value)])
    }

    /// Launches a kernel in blocks of 64 threads.
    pub fn launch(&self, name: &str, blocks: u32, shared: u32, arguments: &mut [*mut c_void]) -> Result<(), CUresult> {
        let kernel = self.kernel(name);
        // SAFETY: the arguments are the kernel's.
        let launched =
            unsafe { result::launch_kernel(kernel, (blocks, 1, 1), (64, 1, 1), shared, self.stream, arguments) };
        launched.map_err(|error| error.0)
    }

    /// Waits for the stream.
    pub fn synchronize(&self) -> Result<(), CUresult> {
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|error| error.0)
    }

    /// Memory with these floats.
    pub fn floats(&self, values: &[f32]) -> u64 {
        // SAFETY: the memory is as large as what is copied.
        unsafe {
            let at = result::malloc_sync(4 * values.len()).unwrap();
            result::memcpy_htod_async(at, values, self.stream).unwrap();
            at
        }
    }

    /// The floats that are there when the stream has done all before.
    pub fn read(&self, at: u64, count: usize) -> Vec<f32> {
        let mut values = vec![0f32; count];
        // SAFETY: the tests only ask for what is allocated, and the driver holds it to that.
        unsafe { result::memcpy_dtoh_async(&mut values, at, self.stream) }.unwrap();
        self.synchronize().unwrap();
        values
    }
}

/// A pointer to an argument.
pub fn pointer<T>(argument: &mut T) -> *mut c_void {
    std::ptr::from_mut(argument).cast()
}

/// Loads PTX into the thread's context.
pub fn load(ptx: &str) -> Result<sys::CUmodule, CUresult> {
    let text = CString::new(ptx).unwrap();
    // SAFETY: the text ends with zero.
    unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(|error| error.0)
}

/// The result of a call.
pub fn status(result: CUresult) -> Result<(), CUresult> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(result) }
}
