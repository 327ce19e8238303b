//! `libcublasLt.so.12`: products of matrices in column-major order, with the default epilogue.

use crate::driver::memory::{self, check};
use crate::driver::status::Status;
use crate::driver::stream;
use crate::driver::{Out, c_functions, complain};
use crate::handles::Handles;
use half::{bf16, f16};
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, PoisonError};

const NOT_INITIALIZED: u32 = 1;
const INVALID_VALUE: u32 = 7;
const EXECUTION_FAILED: u32 = 13;
const NOT_SUPPORTED: u32 = 15;

type Outcome<T = ()> = Result<T, u32>;

/// `cudaDataType`, as far as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ty {
    F32,
    F16,
    Bf16,
}

/// `cublasLtMatrixLayout_t`: a column-major matrix, or a batch of them.
#[derive(Clone, Copy, Debug)]
struct Layout {
    ty: Ty,
    rows: u64,
    columns: u64,
    /// Elements from a column to the next.
    leading: i64,
    batch: i32,
    /// Elements from a matrix to the next.
    batch_stride: i64,
}

/// `cublasLtMatmulDesc_t`.
#[derive(Clone, Copy, Default, Debug)]
struct Description {
    transpose_a: bool,
    transpose_b: bool,
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
pub(crate) struct Heuristic {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    state: c_uint,
    waves: f32,
    reserved: [c_int; 4],
}

static LAYOUTS: Handles<Mutex<Layout>> = Handles::new();
static DESCRIPTIONS: Handles<Mutex<Description>> = Handles::new();
static LIBRARIES: Handles<()> = Handles::new();
static PREFERENCES: Handles<()> = Handles::new();

fn code(call: impl FnOnce() -> Outcome) -> u32 {
    call().err().unwrap_or(0)
}

fn put<T>(out: Out<'_, T>, value: T) -> Outcome {
    out.ok_or(INVALID_VALUE)?.write(value);
    Ok(())
}

/// An attribute's value.
fn attribute<T: Copy>(value: *const c_void, bytes: usize) -> Outcome<T> {
    if value.is_null() || bytes < size_of::<T>() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller gives a value of `bytes` bytes, which are enough; all types asked for are plain numbers.
    Ok(unsafe { value.cast::<T>().read_unaligned() })
}

fn layout_of(handle: usize) -> Outcome<Layout> {
    Ok(*LAYOUTS.get(handle).ok_or(INVALID_VALUE)?.lock().unwrap_or_else(PoisonError::into_inner))
}

c_functions! { code;
    fn cublasLtCreate(handle: Out<'_, usize>) { put(handle, LIBRARIES.add(Arc::new(()))) }

    fn cublasLtDestroy(handle: usize) { LIBRARIES.remove(handle).map(drop).ok_or(NOT_INITIALIZED) }

    fn cublasLtMatrixLayoutCreate(layout: Out<'_, usize>, ty: c_uint, rows: u64, columns: u64, leading: i64) {
        let ty = match ty {
            0 => Ty::F32,
            2 => Ty::F16,
            14 => Ty::Bf16,
            _ => return Err(NOT_SUPPORTED),
        };
        if leading < rows as i64 || rows == 0 || columns == 0 {
            return Err(INVALID_VALUE);
        }
        put(layout, LAYOUTS.add(Arc::new(Mutex::new(Layout { ty, rows, columns, leading, batch: 1, batch_stride: 0 }))))
    }

    fn cublasLtMatrixLayoutSetAttribute(layout: usize, which: c_uint, value: *const c_void, bytes: usize) {
        let layout = LAYOUTS.get(layout).ok_or(INVALID_VALUE)?;
        let mut layout = layout.lock().unwrap_or_else(PoisonError::into_inner);
        match which {
            5 => layout.batch = attribute(value, bytes)?,
            6 => layout.batch_stride = attribute(value, bytes)?,
            _ => return Err(NOT_SUPPORTED),
        }
        Ok(())
    }

    fn cublasLtMatrixLayoutDestroy(layout: usize) { LAYOUTS.remove(layout).map(drop).ok_or(INVALID_VALUE) }

    fn cublasLtMatmulDescCreate(description: Out<'_, usize>, compute: c_uint, scale: c_uint) {
        // 32-bit floats, with or without tensor cores' own formats; scaled by one.
        if !matches!(compute, 68 | 69 | 74 | 75 | 77) || scale != 0 {
            return Err(NOT_SUPPORTED);
        }
        put(description, DESCRIPTIONS.add(Arc::default()))
    }

    fn cublasLtMatmulDescSetAttribute(description: usize, which: c_uint, value: *const c_void, bytes: usize) {
        let description = DESCRIPTIONS.get(description).ok_or(INVALID_VALUE)?;
        let mut description = description.lock().unwrap_or_else(PoisonError::into_inner);
        let number: c_int = attribute(value, bytes)?;
        match which {
            3 => description.transpose_a = number != 0,
            4 => description.transpose_b = number != 0,
            // The transposition of C, which must be none, and the epilogue, which must be the default one.
            5 if number == 0 => {}
            7 if number == 1 => {}
            _ => return Err(NOT_SUPPORTED),
        }
        Ok(())
    }

    fn cublasLtMatmulDescDestroy(description: usize) {
        DESCRIPTIONS.remove(description).map(drop).ok_or(INVALID_VALUE)
    }

    fn cublasLtMatmulPreferenceCreate(preference: Out<'_, usize>) { put(preference, PREFERENCES.add(Arc::new(()))) }

    fn cublasLtMatmulPreferenceSetAttribute(preference: usize, _which: c_uint, _value: *const c_void, _bytes: usize) {
        PREFERENCES.get(preference).map(drop).ok_or(INVALID_VALUE)
    }

    fn cublasLtMatmulPreferenceDestroy(preference: usize) {
        PREFERENCES.remove(preference).map(drop).ok_or(INVALID_VALUE)
    }

    fn cublasLtMatmulAlgoGetHeuristic(
        handle: usize,
        description: usize,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        _preference: usize,
        wanted: c_int,
        results: Out<'_, Heuristic>,
        found: Out<'_, c_int>,
    ) {
        Product::of(handle, description, [a, b, c, d])?;
        if wanted < 1 {
            return Err(INVALID_VALUE);
        }
        put(results, Heuristic { algorithm: [0; 8], workspace_bytes: 0, state: 0, waves: 1.0, reserved: [0; 4] })?;
        put(found, 1)
    }

    fn cublasLtMatmul(
        handle: usize,
        description: usize,
        alpha: Option<&f32>,
        a: u64,
        a_layout: usize,
        b: u64,
        b_layout: usize,
        beta: Option<&f32>,
        c: u64,
        c_layout: usize,
        d: u64,
        d_layout: usize,
        _algorithm: *const c_void,
        _workspace: *mut c_void,
        _workspace_bytes: usize,
        stream: usize,
    ) {
        let product = Product::of(handle, description, [a_layout, b_layout, c_layout, d_layout])?;
        let (alpha, beta) = (*alpha.ok_or(INVALID_VALUE)?, *beta.ok_or(INVALID_VALUE)?);
        let stream = stream::of_handle(stream).map_err(|_| EXECUTION_FAILED)?;
        stream.submit_fn(move || product.run(alpha, beta, [a, b, c, d])).map_err(|_| EXECUTION_FAILED)
    }
}

/// `d = alpha * a * b + beta * c`, with `a` and `b` transposed or not.
struct Product {
    description: Description,
    a: Layout,
    b: Layout,
    c: Layout,
    d: Layout,
    m: usize,
    n: usize,
    k: usize,
}

impl Product {
    fn of(handle: usize, description: usize, layouts: [usize; 4]) -> Outcome<Self> {
        LIBRARIES.get(handle).ok_or(NOT_INITIALIZED)?;
        let description = DESCRIPTIONS.get(description).ok_or(INVALID_VALUE)?;
        let description = *description.lock().unwrap_or_else(PoisonError::into_inner);
        let [a, b, c, d] = layouts.map(layout_of);
        let (a, b, c, d) = (a?, b?, c?, d?);
        let turned = |layout: &Layout, transpose| match transpose {
            true => (layout.columns, layout.rows),
            false => (layout.rows, layout.columns),
        };
        let ((m, k), (k_of_b, n)) = (turned(&a, description.transpose_a), turned(&b, description.transpose_b));
        let outer = [(c.rows, c.columns), (d.rows, d.columns)];
        let batches = [b.batch, c.batch, d.batch].iter().all(|batch| *batch == a.batch);
        if k != k_of_b || outer != [(m, n); 2] || a.ty != b.ty || c.ty != d.ty || !batches {
            return Err(INVALID_VALUE);
        }
        Ok(Self { description, a, b, c, d, m: m as usize, n: n as usize, k: k as usize })
    }

    /// Runs in its turn of the stream.
    fn run(&self, alpha: f32, beta: f32, at: [u64; 4]) -> Result<(), Status> {
        for batch in 0..self.a.batch.max(1) as usize {
            let a = rows_of(&read(&self.a, at[0], batch)?, self.description.transpose_a, self.m, self.k);
            // A column of `b` is a row of its transpose.
            let b = rows_of(&read(&self.b, at[1], batch)?, !self.description.transpose_b, self.n, self.k);
            let c = if beta == 0.0 { Vec::new() } else { read(&self.c, at[2], batch)? };
            let mut d = vec![0.0; self.m * self.n];
            for (n, column) in d.chunks_exact_mut(self.m).enumerate() {
                let b = &b[n * self.k..][..self.k];
                for (m, out) in column.iter_mut().enumerate() {
                    let product = dot(&a[m * self.k..][..self.k], b);
                    *out = alpha * product + if beta == 0.0 { 0.0 } else { beta * c[n * self.m + m] };
                }
            }
            write(&self.d, at[3], batch, &d)?;
        }
        Ok(())
    }
}

/// Eight sums, so that it vectorizes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for nth in 0..8 {
            sums[nth] += a[nth] * b[nth];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The `rows` rows of `k` elements each of a column-major matrix, or of its transpose.
fn rows_of(matrix: &[f32], transpose: bool, rows: usize, k: usize) -> Vec<f32> {
    if transpose {
        return matrix.to_vec();
    }
    let mut out = vec![0.0; rows * k];
    for row in 0..rows {
        for column in 0..k {
            out[row * k + column] = matrix[column * rows + row];
        }
    }
    out
}

impl Layout {
    fn element_bytes(&self) -> usize {
        if self.ty == Ty::F32 { 4 } else { 2 }
    }

    /// Where a column of a matrix of the batch is.
    fn column(&self, at: u64, batch: usize, column: usize) -> Result<u64, Status> {
        let elements = batch as i64 * self.batch_stride + column as i64 * self.leading;
        let address = at.wrapping_add_signed(elements * self.element_bytes() as i64);
        check(address, self.rows as usize * self.element_bytes()).map_err(|_| {
            complain(&format!("cublasLtMatmul: column {column} of {self:?} is outside of its allocation"));
            Status::ILLEGAL_ADDRESS
        })?;
        Ok(address)
    }
}

/// A matrix, column by column.
fn read(layout: &Layout, at: u64, batch: usize) -> Result<Vec<f32>, Status> {
    let mut out = Vec::with_capacity((layout.rows * layout.columns) as usize);
    let mut bytes = vec![0u8; layout.rows as usize * layout.element_bytes()];
    for column in 0..layout.columns as usize {
        let address = layout.column(at, batch, column)?;
        // SAFETY: the column was found in an allocation just now, and the buffer has as many bytes.
        unsafe { memory::copy(bytes.as_mut_ptr() as u64, address, bytes.len()) };
        match layout.ty {
            Ty::F32 => out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Ty::F16 => out.extend(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
            Ty::Bf16 => out.extend(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
        }
    }
    Ok(out)
}

fn write(layout: &Layout, at: u64, batch: usize, values: &[f32]) -> Result<(), Status> {
    for (nth, values) in values.chunks_exact(layout.rows as usize).enumerate() {
        let bytes: Vec<u8> = match layout.ty {
            Ty::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Ty::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Ty::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        };
        let address = layout.column(at, batch, nth)?;
        // SAFETY: the column was found in an allocation just now, and has as many bytes.
        unsafe { memory::copy(address, bytes.as_ptr() as u64, bytes.len()) };
    }
    Ok(())
}
