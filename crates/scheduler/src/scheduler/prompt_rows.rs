//! How the rows of a step are shared among prompts.

/// The share of prompt rows that is kept for short prompts is one over this.
const SHORT_SHARE: usize = 4;

/// The rows of a step that prompts may have.
pub(super) struct PromptRows {
    /// For any prompt, as much of it as fits.
    any: usize,
    /// For prompts that are at most `short_max` long, and fit whole.
    short: usize,
    short_max: usize,
}

impl PromptRows {
    pub(super) fn new(rows: usize) -> Self {
        let short = rows / SHORT_SHARE;
        Self { any: rows - short, short, short_max: short }
    }

    /// What is left goes to prompts of any length.
    pub(super) fn open_to_all(&mut self) {
        *self = Self { any: self.left(), short: 0, short_max: 0 };
    }

    pub(super) fn left(&self) -> usize {
        self.any + self.short
    }

    /// How many rows a prompt of which `wanted` tokens are to be computed would get.
    pub(super) fn offer(&self, wanted: usize) -> usize {
        if self.fits_short(wanted) { wanted } else { wanted.min(self.any) }
    }

    /// Takes the rows of [`Self::offer`], and returns how many they are.
    pub(super) fn take(&mut self, wanted: usize) -> usize {
        let rows = self.offer(wanted);
        if self.fits_short(wanted) {
            self.short -= rows;
        } else {
            self.any -= rows;
        }
        rows
    }

    fn fits_short(&self, wanted: usize) -> bool {
        wanted <= self.short_max && wanted <= self.short
    }
}
