//! Products by cublasLt.

use crate::support::on_standin;
use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use cudarc::driver::CudaContext;
use half::bf16;

#[test]
fn a_product_with_transposition_and_beta() {
    on_standin("blas::a_product_with_transposition_and_beta", &[], || {
        let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
        let blas = CudaBlasLT::new(stream.clone()).unwrap();
        let (m, n, k) = (5usize, 3usize, 11usize);
        let value = |seed: usize, nth: usize| ((nth * 7 + seed) % 13) as f32 - 6.0;
        let matrix = |seed: usize, len: usize| (0..len).map(|nth| bf16::from_f32(value(seed, nth))).collect::<Vec<_>>();
        for (transa, transb) in [(true, false), (false, false), (false, true), (true, true)] {
            let (a, b, c) = (matrix(1, m * k), matrix(2, n * k), matrix(3, m * n));
            let (da, db) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
            let mut dc = stream.clone_htod(&c).unwrap();
            let config = MatmulConfig {
                transa,
                transb,
                transc: false,
                m: m as u64,
                n: n as u64,
                k: k as u64,
                alpha: 0.5,
                lda: if transa { k } else { m } as i64,
                ldb: if transb { n } else { k } as i64,
                beta: 2.0,
                ldc: m as i64,
                stride_a: None,
                stride_b: None,
                stride_c: None,
                stride_bias: None,
                batch_size: None,
            };
            // SAFETY: the matrices have the shapes of the configuration.
            unsafe { blas.matmul(config, &da, &db, &mut dc, None, None).unwrap() };
            let out = stream.clone_dtoh(&dc).unwrap();
            stream.synchronize().unwrap();
            for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
                let a = |i: usize| a[if transa { row * k + i } else { i * m + row }].to_f32();
                let b = |i: usize| b[if transb { i * n + column } else { column * k + i }].to_f32();
                let at = column * m + row;
                let expected = 0.5 * (0..k).map(|i| a(i) * b(i)).sum::<f32>() + 2.0 * c[at].to_f32();
                assert_eq!(out[at], bf16::from_f32(expected), "{transa} {transb} {row} {column}");
            }
        }
    });
}
