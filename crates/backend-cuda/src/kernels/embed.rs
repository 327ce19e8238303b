//! `embed.cu`: a rank's part of the embedding of a step's tokens.

use crate::device::{Device, Kernel};
use crate::memory::View;
use crate::step_inputs::StepAt;
use backend::BackendError;
use half::bf16;

#[repr(C)]
#[derive(Clone, Copy)]
struct EmbedArgs {
    step: u64,
    rows: u64,
    history: u64,
    table: u64,
    y: u64,
    history_stride: i32,
    first: i32,
    entries: i32,
    columns: i32,
    table_stride: i32,
    reserved: i32,
}
const _: () = assert!(size_of::<EmbedArgs>() == 64);

pub(crate) struct Embed(Kernel);

impl Embed {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let [embed] = device.kernels(include_str!("../../../../kernels/ptx/embed.ptx"), ["embed"])?;
        Ok(Self(embed))
    }

    /// `y = table[token − first]` of the step's tokens, or 0. `entries` of the table are tokens.
    pub(crate) fn launch(
        &self,
        device: &Device,
        step: &StepAt,
        table: &View<bf16>,
        first: usize,
        entries: usize,
        y: &View<f32>,
    ) -> Result<(), BackendError> {
        table.check("the embedding", 8);
        y.check("the embedded rows", 4);
        assert!(y.columns.is_multiple_of(8) && y.stride == y.columns, "columns of the embedding");
        assert!(y.columns == table.columns && entries <= table.rows && y.rows >= step.rows, "shapes of the embedding");
        let args = EmbedArgs {
            step: step.inputs,
            rows: step.tokens.rows,
            history: step.tokens.history,
            table: table.at,
            y: y.at,
            history_stride: step.tokens.stride as i32,
            first: first as i32,
            entries: entries as i32,
            columns: y.columns as i32,
            table_stride: table.stride as i32,
            reserved: 0,
        };
        // SAFETY: shapes and alignment were checked above; the step's rows are of slots and positions in the history.
        unsafe { device.launch(&self.0, [step.rows, y.columns.div_ceil(1024), 1], 128, 0, &args) }
    }
}
