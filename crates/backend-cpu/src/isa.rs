//! Which vector instructions the kernels use.

use crate::kernels::amx::Amx;
use crate::kernels::simd::{Avx2, Avx512};
use std::fmt;
use std::str::FromStr;

/// An instruction set, from the poorest to the richest. Results differ between them by rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// What every CPU has.
    Plain,
    /// AVX2 with FMA: 8 lanes.
    Avx2,
    /// AVX-512 F, BW and VL: 16 lanes.
    Avx512,
    /// AVX-512 with bf16, and products on the matrix unit (AMX).
    Amx,
}

impl Isa {
    /// All of them, from the poorest to the richest.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Avx2, Self::Avx512, Self::Amx];

    /// The richest that this CPU has.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.into_iter().rfind(|isa| isa.supported()).unwrap_or(Self::Plain)
    }

    /// Whether this CPU has it, and the system lets this process use it.
    #[must_use]
    pub fn supported(self) -> bool {
        match self {
            Self::Plain => true,
            Self::Avx2 => Avx2::detect().is_some(),
            Self::Avx512 => Avx512::detect().is_some(),
            Self::Amx => Amx::detect().is_some(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no instruction set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no instruction set; there are plain, avx2, avx512 and amx")]
pub struct UnknownIsa {
    /// What was given.
    pub given: String,
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(given: &str) -> Result<Self, UnknownIsa> {
        let named = Self::ALL.into_iter().find(|isa| isa.name() == given);
        named.ok_or_else(|| UnknownIsa { given: given.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert!("AVX".parse::<Isa>().is_err());
        assert!(Isa::detect().supported());
    }
}
