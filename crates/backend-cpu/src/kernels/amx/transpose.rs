//! Squares of 16 by 16 elements of 32 bits.

use std::arch::x86_64::*;

/// Element `j` of row `i` goes to element `i` of row `j`.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Each quarter of `fours[4 * i + j]` has column `j` of its own four columns, of rows `4 * i` to `4 * i + 3`.
    let mut fours = pairs;
    for i in 0..4 {
        let [a, b, c, d] = [pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]];
        fours[4 * i] = _mm512_unpacklo_epi64(a, c);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    let mut columns = fours;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        let square: [[u32; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as u32));
        // SAFETY: an array of 16 u32 has the size of a vector, all of whose bits are free.
        let rows = square.map(|row| unsafe { std::mem::transmute::<[u32; 16], __m512i>(row) });
        // SAFETY: AVX-512 was found.
        let columns = unsafe { transpose(rows) };
        // SAFETY: as above.
        let columns = columns.map(|column| unsafe { std::mem::transmute::<__m512i, [u32; 16]>(column) });
        for (i, j) in (0..256).map(|i| (i / 16, i % 16)) {
            assert_eq!(columns[i][j], square[j][i]);
        }
    }
}
