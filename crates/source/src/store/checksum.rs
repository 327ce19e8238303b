//! The sums by which stores say what an object is.

use crc_fast::{CrcAlgorithm, Digest, checksum_combine};
use object_store::HeaderMap;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a sum is made. All of them can be made of the sums of pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Algorithm {
    #[default]
    Crc32,
    Crc32c,
    Crc64nvme,
}

/// In the order in which they are looked for in an answer of S3: the header, and the bytes of the sum.
const OF_S3: [(Algorithm, &str, usize); 3] = [
    (Algorithm::Crc64nvme, "x-amz-checksum-crc64nvme", 8),
    (Algorithm::Crc32c, "x-amz-checksum-crc32c", 4),
    (Algorithm::Crc32, "x-amz-checksum-crc32", 4),
];

/// What an object's bytes add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) algorithm: Algorithm,
    pub(crate) value: u64,
}

impl Algorithm {
    fn crc(self) -> CrcAlgorithm {
        match self {
            Self::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
            Self::Crc32c => CrcAlgorithm::Crc32Iscsi,
            Self::Crc64nvme => CrcAlgorithm::Crc64Nvme,
        }
    }

    pub(crate) fn digest(self) -> Digest {
        Digest::new(self.crc())
    }

    /// Of pieces that follow each other, each with its length.
    pub(crate) fn combine(self, pieces: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        let nothing = self.digest().finalize();
        pieces.into_iter().fold(nothing, |sum, (piece, len)| checksum_combine(self.crc(), sum, piece, len))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.algorithm {
            Algorithm::Crc32 => write!(f, "CRC-32 {:08x}", self.value),
            Algorithm::Crc32c => write!(f, "CRC-32C {:08x}", self.value),
            Algorithm::Crc64nvme => write!(f, "CRC-64/NVME {:016x}", self.value),
        }
    }
}

/// The sum of a whole object, by the headers of an answer, if they have one.
pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Sum> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // Of an object that was uploaded in parts, S3 may have the sum of the parts' sums only.
    let is_whole = text("x-amz-checksum-type") != Some("COMPOSITE");
    let of_s3 = OF_S3.into_iter().filter(|_| is_whole);
    let of_s3 = of_s3.filter_map(|(algorithm, header, len)| sum(algorithm, text(header)?, len));
    let of_gcs = headers.get_all("x-goog-hash").into_iter().filter_map(|value| value.to_str().ok());
    let of_gcs = of_gcs.flat_map(|value| value.split(',')).filter_map(|hash| hash.trim().strip_prefix("crc32c="));
    of_s3.chain(of_gcs.filter_map(|text| sum(Algorithm::Crc32c, text, 4))).next()
}

fn sum(algorithm: Algorithm, base64: &str, len: usize) -> Option<Sum> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).ok().filter(|bytes| bytes.len() == len)?;
    Some(Sum { algorithm, value: bytes.into_iter().fold(0, |value, byte| value << 8 | u64::from(byte)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the algorithms' definitions.
    const CHECKS: [(Algorithm, u64); 3] = [
        (Algorithm::Crc32, 0xcbf4_3926),
        (Algorithm::Crc32c, 0xe306_9283),
        (Algorithm::Crc64nvme, 0xae8b_1486_0a79_9888),
    ];

    #[test]
    fn pieces_have_the_sum_of_the_whole() {
        for (algorithm, check) in CHECKS {
            let of = |bytes: &[u8]| {
                let mut digest = algorithm.digest();
                digest.update(bytes);
                (digest.finalize(), bytes.len() as u64)
            };
            assert_eq!(algorithm.combine([b"1234".as_slice(), b"", b"56", b"789"].map(of)), check, "{algorithm:?}");
            assert_eq!(algorithm.combine([of(b"123456789")]), check, "{algorithm:?}");
            assert_eq!(algorithm.combine([]), of(b"").0);
        }
    }

    #[test]
    fn sums_are_read_from_the_headers_of_each_store() {
        let of = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().expect("a value"));
            }
            of_headers(&map).map(|sum| sum.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(&[("x-amz-checksum-crc32", "y/Q5Jg==")]), some("CRC-32 cbf43926"));
        assert_eq!(of(&[("x-amz-checksum-crc64nvme", "rosUhgp5mIg=")]), some("CRC-64/NVME ae8b14860a799888"));
        assert_eq!(of(&[("x-goog-hash", "crc32c=4waSgw==,md5=xxxx")]), some("CRC-32C e3069283"));
        assert_eq!(of(&[("x-goog-hash", "md5=x"), ("x-goog-hash", "crc32c=4waSgw==")]), some("CRC-32C e3069283"));
        assert_eq!(of(&[("x-amz-checksum-crc32", "y/Q5Jg=="), ("x-amz-checksum-type", "COMPOSITE")]), None);
        assert_eq!(of(&[("x-amz-checksum-crc32", "y/Q5Jg==-3")]), None);
        assert_eq!(of(&[("etag", "\"a\"")]), None);
    }
}
