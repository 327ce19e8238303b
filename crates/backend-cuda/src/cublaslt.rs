//! Products of many rows by cuBLASLt: bf16 inputs, f32 sums, the default epilogue. (Its GELU is the tanh form, which is
//! another function than Falcon's.)

use crate::device::Device;
use crate::memory::{Arena, Buffer, View};
use backend::BackendError;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use half::bf16;
use lru::LruCache;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::rc::Rc;

/// What algorithms may use beside inputs and outputs.
pub(crate) const WORKSPACE_BYTES: usize = 32 << 20;

/// `CUBLAS_OP_T`, of a type that cudarc keeps in another module.
const OPERATION_TRANSPOSED: i32 = 1;

/// The library's handle, and how each shape is best multiplied.
pub(crate) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    device: Rc<Device>,
    workspace: Buffer,
    /// Those used last: each number of rows has its own, and a step may have any.
    plans: LruCache<Shape, Plan>,
}

/// Plans that are kept. A model multiplies by four shapes of weights or so; each plan takes some hundred bytes.
const PLANS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not zero");

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    outputs: usize,
    inputs: usize,
    x_stride: usize,
    y_stride: usize,
}

struct Plan {
    multiply: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// Whether the library can be opened.
pub(crate) fn is_present() -> bool {
    // SAFETY: opening a library runs its initializers alone, which do nothing here that depends on this process.
    unsafe { sys::is_culib_present() }
}

impl CublasLt {
    pub(crate) fn new(device: &Rc<Device>, arena: &Arena) -> Result<Self, BackendError> {
        let handle = result::create_handle().map_err(|error| fault(device, error))?;
        let workspace = arena.buffer("cuBLASLt's workspace", WORKSPACE_BYTES)?;
        Ok(Self { handle, device: Rc::clone(device), workspace, plans: LruCache::new(PLANS_MAX) })
    }

    /// `y = x·Wᵀ`, or `y += x·Wᵀ`, for `rows` rows.
    pub(crate) fn product(
        &mut self,
        x: &View<bf16>,
        weight: &View<bf16>,
        y: &View<f32>,
        rows: usize,
        add: bool,
    ) -> Result<(), BackendError> {
        assert_eq!(x.columns, weight.columns, "columns of a product's inputs");
        assert!(weight.rows <= y.stride && x.rows >= rows && y.rows >= rows, "shapes of a product");
        x.check("the inputs of a product", 8);
        weight.check("a weight", 8);
        y.check("a product", 4);
        let (outputs, inputs) = (weight.rows, weight.columns);
        let shape = Shape { rows, outputs, inputs, x_stride: x.stride, y_stride: y.stride };
        let plan = self.plans.try_get_or_insert(shape, || Plan::new(self.handle, shape, weight.stride));
        let plan = plan.map_err(|error| fault(&self.device, error))?;
        let (alpha, beta) = (1.0f32, if add { 1.0f32 } else { 0.0 });
        // SAFETY: the descriptors were made for these shapes, which were checked; the memory is the caller's, and lives
        // until the stream has run this; the scalars are read before the call returns.
        let begun = unsafe {
            result::matmul(
                self.handle,
                plan.multiply,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                weight.at as *const c_void,
                plan.weight,
                x.at as *const c_void,
                plan.x,
                y.at as *const c_void,
                plan.y,
                y.at as *mut c_void,
                plan.y,
                &raw const plan.algorithm,
                self.workspace.at() as *mut c_void,
                WORKSPACE_BYTES,
                self.device.stream.cu_stream().cast(),
            )
        };
        begun.map_err(|error| fault(&self.device, error))
    }
}

impl Plan {
    /// In the library's terms matrices are column-major: (outputs, rows) = (inputs, outputs)ᵀ · (inputs, rows).
    fn new(handle: sys::cublasLtHandle_t, shape: Shape, weight_stride: usize) -> Result<Self, CublasError> {
        let Shape { rows, outputs, inputs, x_stride, y_stride } = shape;
        let (bf16, f32) = (sys::cudaDataType_t::CUDA_R_16BF, sys::cudaDataType_t::CUDA_R_32F);
        let layout = |kind, rows: usize, columns: usize, stride: usize| {
            result::create_matrix_layout(kind, rows as u64, columns as u64, stride as i64)
        };
        let weight = layout(bf16, inputs, outputs, weight_stride)?;
        let x = layout(bf16, inputs, rows, x_stride)?;
        let y = layout(f32, outputs, rows, y_stride)?;
        let multiply = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32)?;
        let transposed = OPERATION_TRANSPOSED;
        let workspace_bytes = WORKSPACE_BYTES;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let preference = result::create_matmul_pref()?;
        let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the descriptors are alive; the attributes are of the sizes that the library gives them.
        let found = unsafe {
            let (operation, size) = ((&raw const transposed).cast(), size_of_val(&transposed));
            result::set_matmul_desc_attribute(multiply, attribute, operation, size)?;
            let (bytes, size) = ((&raw const workspace_bytes).cast(), size_of::<usize>());
            result::set_matmul_pref_attribute(preference, most, bytes, size)?;
            let found = result::get_matmul_algo_heuristic(handle, multiply, weight, x, y, y, preference);
            result::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self { multiply, weight, x, y, algorithm: found.algo })
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the descriptors are alive and not used behind this; calls that took them have copied what they need.
        // Nothing can be done about a failure.
        unsafe {
            let _ = result::destroy_matmul_desc(self.multiply);
            for layout in [self.weight, self.x, self.y] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        if self.device.is_broken() || self.device.wait("leaving cuBLASLt").is_err() {
            return;
        }
        // SAFETY: nothing uses it behind this. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn fault(device: &Device, error: CublasError) -> BackendError {
    device.library_fault("a product of cuBLASLt", &format!("{:?}", error.0))
}
