//! Heads that stand wider in the device's tensors than the model has them: [`backend::Backend::head_width`].

use std::ops::Range;

/// Heads of `head_dim` elements, each half of which is followed by zeros up to half of `width`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) head_dim: usize,
    pub(crate) width: usize,
}

impl Heads {
    /// How many rows or columns the device has for `elements` of the model.
    pub(crate) fn wide(self, elements: usize) -> usize {
        elements / self.head_dim * self.width
    }

    /// Cuts a range of the device's rows or columns into runs: the device's part, and where the model has it; `None` is
    /// zeros.
    fn runs(self, wide: Range<usize>) -> impl Iterator<Item = (Range<usize>, Option<usize>)> {
        let (half, half_width) = (self.head_dim / 2, self.width / 2);
        let mut at = wide.start;
        std::iter::from_fn(move || {
            let (which, within) = (at / half_width, at % half_width);
            let (run_end, source) =
                if within < half { (half, Some(which * half + within)) } else { (half_width, None) };
            let run = at..wide.end.min(which * half_width + run_end);
            at = run.end;
            (!run.is_empty()).then_some((run, source))
        })
    }

    /// Reads `elements` of a weight whose rows are heads. `read` is of the model's own rows of `columns`.
    pub(crate) fn read_rows<T: Default + Copy>(
        self,
        columns: usize,
        elements: Range<usize>,
        out: &mut [T],
        read: impl Fn(Range<usize>, &mut [T]),
    ) {
        if self.width == self.head_dim {
            return read(elements, out);
        }
        let first = elements.start;
        for (run, source) in self.runs(elements.start / columns..elements.end.div_ceil(columns)) {
            let part = (run.start * columns).max(elements.start)..(run.end * columns).min(elements.end);
            let out = &mut out[part.start - first..part.end - first];
            match source {
                Some(row) => {
                    let from = row * columns + part.start - run.start * columns;
                    read(from..from + out.len(), out);
                }
                None => out.fill(T::default()),
            }
        }
    }

    /// Reads `elements` of a weight whose columns are heads; the model has `columns` of them.
    pub(crate) fn read_columns<T: Default + Copy>(
        self,
        columns: usize,
        elements: Range<usize>,
        out: &mut [T],
        read: impl Fn(Range<usize>, &mut [T]),
    ) {
        if self.width == self.head_dim {
            return read(elements, out);
        }
        let (wide, first) = (self.wide(columns), elements.start);
        for row in elements.start / wide..elements.end.div_ceil(wide) {
            let part = elements.start.max(row * wide)..elements.end.min((row + 1) * wide);
            for (run, source) in self.runs(part.start - row * wide..part.end - row * wide) {
                let out = &mut out[row * wide + run.start - first..row * wide + run.end - first];
                match source {
                    Some(column) => read(row * columns + column..row * columns + column + out.len(), out),
                    None => out.fill(T::default()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { head_dim: 4, width: 6 };

    fn read(range: Range<usize>, out: &mut [f32]) {
        out.iter_mut().zip(range).for_each(|(out, i)| *out = i as f32 + 1.0);
    }

    /// What any part of the whole reads must be that part of the whole.
    fn assert_parts(whole: &[f32], read: impl Fn(Range<usize>, &mut [f32])) {
        for start in 0..whole.len() {
            for end in start..=whole.len() {
                let mut part = vec![f32::NAN; end - start];
                read(start..end, &mut part);
                assert_eq!(part, whole[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn rows_of_two_heads_have_zeros_behind_each_half() {
        let rows = [Some(0), Some(1), None, Some(2), Some(3), None, Some(4), Some(5), None, Some(6), Some(7), None];
        let row = |row: Option<usize>| (1..=3).map(move |column| row.map_or(0.0, |row| (row * 3 + column) as f32));
        let whole: Vec<f32> = rows.into_iter().flat_map(row).collect();
        assert_parts(&whole, |range, out| HEADS.read_rows(3, range, out, read));
    }

    #[test]
    fn columns_of_one_head_have_zeros_behind_each_half() {
        let whole = [1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 5.0, 6.0, 0.0, 7.0, 8.0, 0.0];
        assert_parts(&whole, |range, out| HEADS.read_columns(4, range, out, read));
    }

    #[test]
    fn heads_of_their_own_width_are_read_as_they_are() {
        let heads = Heads { head_dim: 4, width: 4 };
        let whole: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        assert_parts(&whole, |range, out| heads.read_rows(2, range, out, read));
        assert_parts(&whole, |range, out| heads.read_columns(8, range, out, read));
    }
}
