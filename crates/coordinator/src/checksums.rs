//! Whether a rank that loads again reads what it read at first. Pure.

use std::collections::BTreeMap;
use wire::control::TensorChecksum;

/// What each rank read when it was first ready.
#[derive(Debug, Default)]
pub(crate) struct Checksums {
    first: BTreeMap<usize, Vec<TensorChecksum>>,
}

impl Checksums {
    /// Keeps what the rank read if it has not been ready before.
    ///
    /// # Errors
    ///
    /// If it read something else before: which file and tensor, for the rank to fail with.
    pub(crate) fn first_or_differs(&mut self, rank: usize, read: Vec<TensorChecksum>) -> Result<(), String> {
        let Some(first) = self.first.get(&rank) else {
            self.first.insert(rank, read);
            return Ok(());
        };
        let is_other = |(first, now): &(&TensorChecksum, &TensorChecksum)| {
            (&first.tensor, first.crc32) != (&now.tensor, now.crc32)
        };
        let mut others = first.iter().zip(&read).filter(is_other);
        if let Some((first, now)) = others.next() {
            let more = match others.count() {
                0 => String::new(),
                more => format!(", as are {more} other tensors"),
            };
            return Err(format!(
                "{}: tensor `{}` is changed since this rank was first ready{more}: the CRC-32 of its part is {:08x} and was \
                 {:08x}; to serve other weights, restart the service",
                now.file, now.tensor, now.crc32, first.crc32
            ));
        }
        if first.len() != read.len() {
            return Err(format!(
                "the model has {} tensors for this rank and had {} when it was first ready; to serve another model, restart \
                 the service",
                read.len(),
                first.len()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tensors: &[(&str, u32)]) -> Vec<TensorChecksum> {
        let of = |&(tensor, crc32): &(&str, u32)| TensorChecksum {
            file: format!("/m/{}.safetensors", &tensor[..1]),
            tensor: tensor.to_owned(),
            crc32,
        };
        tensors.iter().map(of).collect()
    }

    #[test]
    fn the_first_checksums_of_each_rank_are_kept() {
        let mut checksums = Checksums::default();
        let (zero, one) = (read(&[("a", 1), ("b", 2)]), read(&[("a", 3), ("b", 4)]));
        for _ in 0..3 {
            assert_eq!(checksums.first_or_differs(0, zero.clone()), Ok(()));
            assert_eq!(checksums.first_or_differs(1, one.clone()), Ok(()));
        }
        // Another file that has the same tensor will do.
        let mut moved = zero;
        moved[0].file = "/m/other.safetensors".to_owned();
        assert_eq!(checksums.first_or_differs(0, moved), Ok(()));
        // A rank without files has none.
        assert_eq!(checksums.first_or_differs(2, Vec::new()), Ok(()));
        assert_eq!(checksums.first_or_differs(2, Vec::new()), Ok(()));
    }

    #[test]
    fn what_differs_is_named_and_the_first_stays_what_counts() {
        let mut checksums = Checksums::default();
        let first = read(&[("a", 1), ("b", 2), ("c", 3)]);
        checksums.first_or_differs(0, first.clone()).unwrap();
        for _ in 0..2 {
            let reason = checksums.first_or_differs(0, read(&[("a", 1), ("b", 0xab), ("c", 3)])).unwrap_err();
            assert_eq!(
                reason,
                "/m/b.safetensors: tensor `b` is changed since this rank was first ready: the CRC-32 of its part is 000000ab \
                 and was 00000002; to serve other weights, restart the service"
            );
        }
        let reason = checksums.first_or_differs(0, read(&[("a", 9), ("b", 9), ("c", 9)])).unwrap_err();
        assert!(reason.starts_with("/m/a.safetensors: tensor `a`") && reason.contains("2 other tensors"), "{reason}");
        let reason = checksums.first_or_differs(0, read(&[("a", 1), ("d", 2), ("c", 3)])).unwrap_err();
        assert!(reason.starts_with("/m/d.safetensors: tensor `d`"), "{reason}");
        let reason = checksums.first_or_differs(0, read(&[("a", 1)])).unwrap_err();
        assert!(reason.contains("1 tensors for this rank and had 3"), "{reason}");
        assert_eq!(checksums.first_or_differs(0, first), Ok(()));
    }
}
